//! Why a lock file cannot be used.

use std::io;
use std::path::PathBuf;

use supermachine_vmm::file_failure;

/// The only version of lock files.
pub(crate) const VERSION: u64 = 1;

/// Why a lock file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The file cannot be read or written.
    #[error("{}", file_failure(operation, path, source))]
    Io {
        /// The operation, a verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The file is malformed.
    #[error("{} is not a lock file", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: Box<toml::de::Error>,
    },
    /// The file was written by another version.
    #[error("{} has version {found}; this build reads version {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// An image is pinned to something other than a digest.
    #[error("{} pins {reference} to {digest:?}, which is not a digest", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// The image.
        reference: String,
        /// What it is pinned to.
        digest: String,
    },
    /// An image is pinned twice.
    #[error("{} pins {reference} twice; remove one of the two", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The image.
        reference: String,
    },
}
