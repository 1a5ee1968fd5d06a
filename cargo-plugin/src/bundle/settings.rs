//! `[package.metadata.supermachine.bundle]`: the settings of a bundle.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use supermachine_baker::BakeError;
use supermachine_baker::manifest::Metadata;

use crate::error::{Error, PackageError};

/// The settings with their defaults. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The bundle's name.
    pub(crate) name: String,
    /// The identifier for macOS.
    pub(crate) identifier: String,
    /// The icon for macOS (`.icns`).
    pub(crate) icon: Option<PathBuf>,
    /// Files and folders to add.
    pub(crate) resources: Vec<PathBuf>,
    pub(crate) entitlements: Option<PathBuf>,
    /// Entries for `Info.plist`, as a property list.
    pub(crate) info_plist: Option<PathBuf>,
    /// The snapshots that ship as files. `None` means all.
    pub(crate) snapshots: Option<Vec<String>>,
    /// Whether to ship the worker. `None` means only with a package that depends on `supermachine`.
    pub(crate) worker: Option<bool>,
}

/// The table in the manifest.
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
    /// Reads the settings of a package.
    pub(crate) fn of(metadata: &Metadata, package: &str, folder: &Path) -> Result<Self, Error> {
        let table: Table = match metadata.bundle.clone() {
            None => Table::default(),
            Some(table) => table.try_into().map_err(|source| PackageError::BundleTable {
                path: folder.join("Cargo.toml"),
                source: Box::new(source),
            })?,
        };
        let name = table.name.unwrap_or_else(|| package.to_owned());
        if !is_file_name(&name) {
            return Err(PackageError::BundleName { name }.into());
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

/// The entitlements that a manifest names for its programs.
pub(crate) fn entitlements(manifest: &Path) -> Result<Option<PathBuf>, Error> {
    let metadata = Metadata::read(manifest).map_err(BakeError::from)?;
    let folder = manifest.parent().unwrap_or(Path::new(""));
    Ok(Settings::of(&metadata, "app", folder)?.entitlements)
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// Replaces characters that an identifier cannot have.
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
    fn default_names_come_from_the_package() {
        let settings = settings("").unwrap();
        assert_eq!((&*settings.name, &*settings.identifier), ("my_app", "local.my-app"));
        assert_eq!((settings.snapshots, settings.resources), (None, vec![]));
    }

    #[test]
    fn paths_are_relative_to_the_manifest() {
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
            assert!(matches!(error, Error::Package(PackageError::BundleName { .. })), "{error:?}");
        }
    }
}
