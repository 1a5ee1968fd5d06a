//! Why a snapshot's files could not be read or made.

mod pack;

use std::io;
use std::path::PathBuf;

use supermachine_vmm::file_failure;

pub use self::pack::PackError;

/// Why a mapped form could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pack is missing, damaged, or of another version.
    #[error("snapshot cannot be used")]
    Pack {
        /// What is wrong with it.
        source: PackError,
    },
    /// A file of the cache could not be read or written.
    #[error("{}", file_failure(operation, path, source))]
    Io {
        /// The operation.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

impl From<PackError> for Error {
    fn from(source: PackError) -> Self {
        Self::Pack { source }
    }
}
