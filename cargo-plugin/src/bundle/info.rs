//! `Info.plist`: what macOS knows of an app.

use std::path::Path;

use plist::{Dictionary, Value};

use super::Contents;
use crate::error::Error;

/// The first macOS with a hypervisor for programs that is built for both kinds of Mac.
const MINIMUM_SYSTEM: &str = "11.0";

/// Writes the property list: ours, and the user's entries over them.
pub(super) fn write(contents: &Contents, path: &Path) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        |source| Error::PropertyList { path, source }
    };
    let settings = &contents.settings;
    let executable = contents.programs.first().and_then(|path| path.file_name());
    let executable = executable.unwrap_or_default().to_string_lossy().into_owned();
    let mut entries = Dictionary::new();
    let mut set = |key: &str, value: &str| {
        entries.insert(key.to_owned(), Value::from(value));
    };
    set("CFBundleInfoDictionaryVersion", "6.0");
    set("CFBundlePackageType", "APPL");
    set("CFBundleExecutable", &executable);
    set("CFBundleIdentifier", &settings.identifier);
    set("CFBundleName", &settings.name);
    set("CFBundleDisplayName", &settings.name);
    set("CFBundleVersion", &contents.version);
    set("CFBundleShortVersionString", numbers_of(&contents.version));
    set("LSMinimumSystemVersion", MINIMUM_SYSTEM);
    if let Some(icon) = settings.icon.as_ref().and_then(|icon| icon.file_name()) {
        set("CFBundleIconFile", &icon.to_string_lossy());
    }
    entries.insert("NSHighResolutionCapable".to_owned(), Value::Boolean(true));
    if let Some(file) = &settings.info_plist {
        let users: Dictionary = plist::from_file(file).map_err(failed(file))?;
        entries.extend(users);
    }
    Value::Dictionary(entries).to_file_xml(path).map_err(failed(path))
}

/// Apple's short version has numbers alone.
fn numbers_of(version: &str) -> &str {
    version.split(['-', '+']).next().unwrap_or(version)
}
