//! Why a volume cannot be used.

use std::io;
use std::path::PathBuf;

use supermachine_vmm::file_failure;

use super::limits::{MAX_SIZE, MIN_SIZE};

/// A volume cannot be made, used or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// Its name.
    #[error(
        "{name:?} is not a name for a volume: use letters, digits, '_', '.' and '-', and begin with a \
         letter or digit"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Where the guest is to have it.
    #[error(
        "no volume can be at {target:?} in the machine: name an absolute path, not /dev, /proc or /sys"
    )]
    Target {
        /// The path in the guest.
        target: String,
    },
    /// The guest cannot write to it, and it is to hold what the guest writes to its root.
    #[error("a read-only volume cannot be at / in the machine: it holds what is written there")]
    ReadOnlyLayer,
    /// Its size.
    #[error("a volume cannot have {size} bytes: it has at least {MIN_SIZE} and at most {MAX_SIZE}")]
    Size {
        /// The size.
        size: u64,
    },
    /// A machine uses it.
    #[error("volume {name} is in use by another machine")]
    InUse {
        /// Its name or path.
        name: String,
    },
    /// There is no volume of this name.
    #[error("there is no volume {name}")]
    Missing {
        /// The name.
        name: String,
    },
    /// There is no folder for volumes.
    #[error("no folder for volumes: set HOME or XDG_DATA_HOME to an absolute path")]
    NoFolder,
    /// Its file is no disk of a volume.
    #[error("{} is no disk of a volume: {reason}", path.display())]
    NotAVolume {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file operation failed.
    #[error("{}", file_failure(operation, path, source))]
    File {
        /// The operation.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

impl VolumeError {
    /// Wraps the failure of an operation on a file.
    pub(super) fn file(
        operation: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { operation, path, source }
    }
}
