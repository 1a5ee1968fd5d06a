//! Folders that ship with a program, in which snapshots are found by name.
//!
//! A machine needs no file but its snapshot, so a program's assets are its packs and the worker
//! program.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::{InvalidInput, SnapshotError};
use crate::{Error, paths};
use supermachine_snapshots::pack::{PackError, Source, is_name};

/// The program that holds isolated machines.
pub const PROGRAM: &str = "supermachine-worker";

/// The folders that ship with a program.
///
/// A snapshot `NAME` is the file `NAME.tar` in one of them, as `supermachine export` writes it, or
/// the image-layout folder `NAME`, or has that name in a folder that is a store. The first match
/// wins.
///
/// ```no_run
/// use supermachine::{AssetPaths, VmConfig};
///
/// # fn main() -> Result<(), supermachine::Error> {
/// let assets = AssetPaths::discover();
/// let vm = assets.image("python")?.start(&VmConfig::new().with_assets(assets))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AssetPaths {
    folders: Vec<PathBuf>,
}

/// Where a snapshot was found.
pub(crate) enum SnapshotLocation {
    /// The only one of a file or folder.
    Pack(PathBuf),
    /// One of several in a folder.
    Store(PathBuf),
}

impl AssetPaths {
    /// Looks in one folder only.
    #[must_use]
    pub fn from_dir(dir: impl Into<PathBuf>) -> Self {
        Self { folders: vec![dir.into()] }
    }

    /// Looks where programs are shipped to: only in the folder that `SUPERMACHINE_SNAPSHOTS` names,
    /// if it is set; else beside the executable, in the folder `snapshots` there, in `../Resources`
    /// (`Contents/Resources` of an application bundle), and in `../share/PROGRAM` and
    /// `../lib/PROGRAM`. A folder may be missing.
    #[must_use]
    pub fn discover() -> Self {
        match paths::snapshots_dir() {
            Some(dir) => Self::from_dir(dir),
            None => paths::executable().map_or_else(Self::default, |path| Self::around(&path)),
        }
    }

    /// The folders around an executable.
    fn around(executable: &Path) -> Self {
        let Some(beside) = executable.parent() else { return Self::default() };
        let mut folders = vec![beside.to_owned(), beside.join("snapshots")];
        if let Some(above) = beside.parent() {
            folders.push(above.join("Resources"));
            let program = executable.file_stem().unwrap_or(OsStr::new("."));
            folders.push(above.join("share").join(program));
            folders.push(above.join("lib").join(program));
        }
        Self { folders }
    }

    /// Looks in `dir` as well, after the others.
    #[must_use]
    pub fn and_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.folders.push(dir.into());
        self
    }

    /// The folders, in search order.
    #[must_use]
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The file or folder of a snapshot's pack, or `otherwise` if no folder has it. A link counts
    /// only where `otherwise` does not exist: links beside a freshly built program may belong to
    /// another package or build.
    #[must_use]
    pub fn pack_or(&self, name: &str, otherwise: impl Into<PathBuf>) -> PathBuf {
        let otherwise = otherwise.into();
        match self.find(name) {
            Ok(SnapshotLocation::Pack(path)) if !(path.is_symlink() && otherwise.exists()) => path,
            _ => otherwise,
        }
    }

    /// The program that holds isolated machines, `supermachine-worker`, if a folder has it.
    #[must_use]
    pub fn worker(&self) -> Option<PathBuf> {
        self.folders.iter().map(|folder| folder.join(PROGRAM)).find(|path| path.is_file())
    }

    pub(crate) fn find(&self, name: &str) -> Result<SnapshotLocation, Error> {
        // The name becomes part of a path.
        if !is_name(name) {
            return Err(Error::Invalid {
                source: InvalidInput::SnapshotName { name: name.to_owned() },
            });
        }
        for folder in &self.folders {
            let archive = folder.join(format!("{name}.tar"));
            if archive.is_file() {
                return Ok(SnapshotLocation::Pack(archive));
            }
            let layout = folder.join(name);
            if is_layout(&layout) {
                return Ok(SnapshotLocation::Pack(layout));
            }
            if is_layout(folder) {
                match Source::open(folder)?.find(Some(name)) {
                    Ok(_) => return Ok(SnapshotLocation::Store(folder.clone())),
                    Err(PackError::NoSuchName { .. }) => {}
                    Err(source) => return Err(source.into()),
                }
            }
        }
        Err(Error::Snapshot {
            source: SnapshotError::NotFound {
                name: name.to_owned(),
                folders: self.folders.clone(),
            },
        })
    }
}

fn is_layout(folder: &Path) -> bool {
    folder.join("oci-layout").is_file() && folder.join("index.json").is_file()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use supermachine_test_support::packs as samples;

    #[test]
    fn folders_are_those_around_the_executable() {
        let folders = |path: &str| AssetPaths::around(Path::new(path)).folders;
        let bundle = folders("/Applications/My.app/Contents/MacOS/my");
        assert!(bundle.contains(&"/Applications/My.app/Contents/Resources".into()), "{bundle:?}");
        let expected = [
            "/opt/x/bin",
            "/opt/x/bin/snapshots",
            "/opt/x/Resources",
            "/opt/x/share/my",
            "/opt/x/lib/my",
        ];
        assert_eq!(folders("/opt/x/bin/my"), expected.map(PathBuf::from));
    }

    #[test]
    fn snapshot_is_found_as_archive_folder_and_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let made = samples::make(&store);
        let assets = AssetPaths::from_dir(dir.path().join("nosuch")).and_dir(dir.path());
        let found = |name: &str| match assets.find(name).unwrap() {
            SnapshotLocation::Pack(path) | SnapshotLocation::Store(path) => path,
        };
        fs::write(dir.path().join("web.tar"), samples::archive(&store)).unwrap();
        assert_eq!(found("web"), dir.path().join("web.tar"));
        assert_eq!(found("store"), store);
        let source = Source::open(&store).unwrap();
        let name = source.snapshots().unwrap().into_iter().find_map(|named| named.name).unwrap();
        let within = AssetPaths::from_dir(&store);
        assert!(matches!(within.find(&name), Ok(SnapshotLocation::Store(path)) if path == store));
        assert_eq!(source.find(Some(&name)).unwrap(), made.image.digest);
    }

    #[test]
    fn link_does_not_replace_the_pack_of_the_build() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let assets = AssetPaths::from_dir(path("snapshots"));
        fs::create_dir(path("snapshots")).unwrap();
        fs::write(path("other.tar"), "").unwrap();
        fs::write(path("own.tar"), "").unwrap();
        std::os::unix::fs::symlink(path("other.tar"), path("snapshots/web.tar")).unwrap();
        assert_eq!(assets.pack_or("web", path("own.tar")), path("own.tar"));
        fs::remove_file(path("own.tar")).unwrap();
        assert_eq!(assets.pack_or("web", path("own.tar")), path("snapshots/web.tar"));
        fs::write(path("own.tar"), "").unwrap();
        fs::remove_file(path("snapshots/web.tar")).unwrap();
        fs::write(path("snapshots/web.tar"), "").unwrap();
        assert_eq!(assets.pack_or("web", path("own.tar")), path("snapshots/web.tar"));
    }

    #[test]
    fn missing_snapshot_is_an_error_that_names_the_folders() {
        let dir = tempfile::tempdir().unwrap();
        let assets = AssetPaths::from_dir(dir.path()).and_dir("/no/such/folder");
        let text = assets.image("web").unwrap_err().to_string();
        assert!(text.contains("/no/such/folder") && text.contains("web"), "{text}");
        assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
        assert_eq!(assets.pack_or("web", "/built/web.tar"), Path::new("/built/web.tar"));
        for name in ["../web", "/etc/passwd", ""] {
            assert!(
                matches!(
                    assets.image(name),
                    Err(Error::Invalid { source: InvalidInput::SnapshotName { .. } })
                ),
                "{name:?}"
            );
        }
    }

    #[test]
    fn worker_is_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let assets = AssetPaths::from_dir(dir.path());
        assert_eq!(assets.worker(), None);
        fs::write(dir.path().join(PROGRAM), "").unwrap();
        assert_eq!(assets.worker(), Some(dir.path().join(PROGRAM)));
    }
}
