//! `Info.plist`: the properties of an app for macOS.

use std::path::Path;

use plist::{Dictionary, Value};

use super::contents::Contents;
use crate::error::{Error, PackageError};

/// The first macOS with Hypervisor.framework on both Intel and Apple silicon.
const MINIMUM_SYSTEM: &str = "11.0";

/// Writes the property list. The user's entries override ours.
pub(super) fn write(contents: &Contents, path: &Path) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        |source| PackageError::PropertyList { path, source }
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
    Ok(Value::Dictionary(entries).to_file_xml(path).map_err(failed(path))?)
}

/// Apple's short version has only numbers.
fn numbers_of(version: &str) -> &str {
    version.split(['-', '+']).next().unwrap_or(version)
}
