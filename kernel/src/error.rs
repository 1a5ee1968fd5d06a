//! What can go wrong with assets.

use std::io;
use std::path::{Path, PathBuf};

/// The error of every function here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel or the agent has not been built from these inputs.
    #[error("{} is missing, `cargo xtask assets` builds it", path.display())]
    AssetsMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The system refused a file operation.
    #[error("cannot {op} {}", path.display())]
    File {
        /// The operation.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`.
    pub(crate) fn file(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { op, path, source }
    }
}
