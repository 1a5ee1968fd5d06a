//! A folder of the host, and how a guest has it.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::os::Root;
use crate::reply::Owner;

/// The longest path of a guest.
const MAX_TARGET: usize = 4095;
/// The guest's own file systems, which a folder must not cover.
const RESERVED: [&str; 4] = ["/", "/dev", "/proc", "/sys"];

/// A folder of the host that a guest sees at a path of its own.
///
/// What the guest does there, it does on the host, as the user who runs this program. In the guest, all
/// files belong to root, or to the owner that [`owned_by`](Self::owned_by) names. The guest cannot leave the
/// folder.
///
/// ```
/// use supermachine_fs::HostFolder;
///
/// let folder = HostFolder::new("/home/me/project", "/project").read_only();
/// assert!(folder.is_read_only());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFolder {
    path: PathBuf,
    target: String,
    is_read_only: bool,
    owner: (u32, u32),
}

impl HostFolder {
    /// The folder at `path` of the host, which the guest sees at `target`, an absolute path. The guest makes
    /// the target if it is missing.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, target: impl Into<String>) -> Self {
        let (path, target) = (path.into(), trimmed(target.into()));
        Self { path, target, is_read_only: false, owner: (0, 0) }
    }

    /// The guest may read, and change nothing.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.is_read_only = true;
        self
    }

    /// The files belong to this user and group of the guest.
    #[must_use]
    pub fn owned_by(mut self, uid: u32, gid: u32) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// The folder of the host.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the guest sees it.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Whether the guest may only read.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Checks that the folder can be shared, as a start does.
    ///
    /// # Errors
    /// It is missing, no folder or not readable, or the target is not one where a guest can have a folder.
    pub fn check(&self) -> Result<(), FolderError> {
        self.open().map(drop)
    }

    pub(crate) fn owner(&self) -> Owner {
        let (uid, gid) = self.owner;
        Owner { uid, gid }
    }

    /// Checks the target and opens the folder.
    pub(crate) fn open(&self) -> Result<Root, FolderError> {
        let target = || self.target.clone();
        if !self.target.starts_with('/') {
            return Err(FolderError::RelativeTarget { target: target() });
        }
        let mut steps = self.target.split('/').skip(1);
        let is_plain = steps.all(|step| !matches!(step, "" | "." | ".."))
            && !self.target.contains('\0')
            && self.target.len() <= MAX_TARGET;
        if RESERVED.contains(&&*self.target) || !is_plain {
            return Err(FolderError::Target { target: target() });
        }
        Root::open(&self.path).map_err(|errno| {
            let path = self.path.clone();
            match errno {
                Errno::NOENT => FolderError::Missing { path },
                Errno::NOTDIR => FolderError::NotAFolder { path },
                Errno::ACCESS | Errno::PERM => FolderError::NotReadable { path },
                _ => FolderError::NotOpened { path, source: errno.into() },
            }
        })
    }
}

/// A path without slashes at its end.
fn trimmed(target: String) -> String {
    match target.trim_end_matches('/') {
        "" if target.starts_with('/') => "/".into(),
        shorter if shorter.len() < target.len() => shorter.into(),
        _ => target,
    }
}

/// A folder cannot be shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// There is nothing at its path.
    #[error("there is no folder {}", path.display())]
    Missing {
        /// The path on the host.
        path: PathBuf,
    },
    /// Something else is at its path.
    #[error("{} is not a folder", path.display())]
    NotAFolder {
        /// The path on the host.
        path: PathBuf,
    },
    /// The user who runs this program may not read it.
    #[error("the folder {} cannot be read by the user of this program", path.display())]
    NotReadable {
        /// The path on the host.
        path: PathBuf,
    },
    /// It cannot be opened for another reason.
    #[error("cannot open the folder {}", path.display())]
    NotOpened {
        /// The path on the host.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The guest's path does not start at its root.
    #[error("the path {target:?} in the machine is not absolute: start it with a slash")]
    RelativeTarget {
        /// The path in the guest.
        target: String,
    },
    /// The guest's path cannot be covered.
    #[error(
        "no folder can be shared at {target:?} in the machine: use a plain path such as /project"
    )]
    Target {
        /// The path in the guest.
        target: String,
    },
}
