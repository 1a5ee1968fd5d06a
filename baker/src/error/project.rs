//! Invalid declarations, lock files and build scripts.

use std::path::PathBuf;

use super::lock::LockError;
use super::manifest::ManifestError;

/// The package's declarations or its build script are invalid; change its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectError {
    /// The package's declarations are invalid.
    #[error("package metadata is invalid")]
    Manifest {
        /// Why.
        source: ManifestError,
    },
    /// The lock file cannot be used.
    #[error("lock file cannot be used")]
    Lock {
        /// Why.
        source: LockError,
    },
    /// The lock file does not pin an image, and must not change.
    #[error(
        "{path} does not pin {reference}, and SUPERMACHINE_LOCKED is set; build without it once"
    )]
    NotLocked {
        /// The lock file.
        path: PathBuf,
        /// The image.
        reference: String,
    },
    /// A variable that cargo sets for build scripts is missing.
    #[error("{variable} is not set; call this from a build script that cargo runs")]
    NotABuildScript {
        /// The variable.
        variable: &'static str,
    },
}
