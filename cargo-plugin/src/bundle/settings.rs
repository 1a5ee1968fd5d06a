//! `[package.metadata.supermachine.bundle]`: what a package says of its bundle.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use supermachine_baker::BakeError;
use supermachine_baker::manifest::Metadata;

use crate::error::Error;

/// What a package says, with what holds where it says nothing. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// What the bundle is called.
    pub(crate) name: String,
    /// What macOS knows it by.
    pub(crate) identifier: String,
    /// An image for macOS (`.icns`).
    pub(crate) icon: Option<PathBuf>,
    /// Files and folders that are added.
    pub(crate) resources: Vec<PathBuf>,
    pub(crate) entitlements: Option<PathBuf>,
    /// Entries for `Info.plist`, as a property list.
    pub(crate) info_plist: Option<PathBuf>,
    /// The snapshots that ship as files; all, if nothing is said.
    pub(crate) snapshots: Option<Vec<String>>,
    /// Whether the program that holds isolated machines ships; if nothing is said, with a package
    /// that depends on it.
    pub(crate) worker: Option<bool>,
}

/// The table, as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    name: Option<String>,
    identifier: Option<String>,
    icon: Option<PathBuf>,
    #[serde(default)]
    resources: Vec<PathBuf>,
    entitlements: Option<PathBuf>,
    info_plist: Option<PathBuf>,
    snapshots: Option<Vec<String>>,
    worker: Option<bool>,
}

impl Settings {
    /// What a package in a folder declares.
    pub(crate) fn of(metadata: &Metadata, package: &str, folder: &Path) -> Result<Self, Error> {
        let table: Table = match metadata.bundle.clone() {
            None => Table::default(),
            Some(table) => table.try_into().map_err(|source| Error::BundleTable {
                path: folder.join("Cargo.toml"),
                source: Box::new(source),
            })?,
        };
        let name = table.name.unwrap_or_else(|| package.to_owned());
        if !is_file_name(&name) {
            return Err(Error::BundleName { name });
        }
        let at = |path: PathBuf| folder.join(path);
        Ok(Self {
            identifier: table.identifier.unwrap_or_else(|| format!("local.{}", plain(package))),
            name,
            icon: table.icon.map(at),
            resources: table.resources.into_iter().map(at).collect(),
            entitlements: table.entitlements.map(at),
            info_plist: table.info_plist.map(at),
            snapshots: table.snapshots,
            worker: table.worker,
        })
    }
}

/// The entitlements that the package of a manifest names for its programs.
pub(crate) fn entitlements(manifest: &Path) -> Result<Option<PathBuf>, Error> {
    let metadata = Metadata::read(manifest).map_err(BakeError::from)?;
    let folder = manifest.parent().unwrap_or(Path::new(""));
    Ok(Settings::of(&metadata, "app", folder)?.entitlements)
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// An identifier has letters, digits, dashes and dots.
fn plain(name: &str) -> String {
    name.chars().map(|one| if one.is_ascii_alphanumeric() { one } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(lines: &str) -> Result<Settings, Error> {
        let text = format!("[package.metadata.supermachine.bundle]\n{lines}");
        let metadata = Metadata::parse(Path::new("Cargo.toml"), &text).unwrap();
        Settings::of(&metadata, "my_app", Path::new("/p"))
    }

    #[test]
    fn package_that_says_nothing_gets_names_from_its_own() {
        let settings = settings("").unwrap();
        assert_eq!((&*settings.name, &*settings.identifier), ("my_app", "local.my-app"));
        assert_eq!((settings.snapshots, settings.resources), (None, vec![]));
    }

    #[test]
    fn paths_are_beside_the_manifest() {
        let settings = settings("icon = \"a.icns\"\nresources = [\"x/y\", \"/z\"]").unwrap();
        assert_eq!(settings.icon.as_deref(), Some(Path::new("/p/a.icns")));
        assert_eq!(settings.resources, [Path::new("/p/x/y"), Path::new("/z")]);
    }

    #[test]
    fn unknown_keys_and_bad_names_are_refused() {
        let error = settings("identifer = \"x\"").unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("identifer") && source.contains("identifier"), "{source}");
        for name in ["", ".x", "a/b", ".."] {
            let error = settings(&format!("name = {name:?}")).unwrap_err();
            assert!(matches!(error, Error::BundleName { .. }), "{error:?}");
        }
    }
}
