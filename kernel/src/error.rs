//! What can go wrong with assets.

use std::io;
use std::path::{Path, PathBuf};

/// The error of every function here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No kernel or no agent of these inputs has been built.
    #[error("{} is missing, `cargo xtask assets` builds it", path.display())]
    AssetsMissing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The system refused a file operation.
    #[error("cannot {op} {}", path.display())]
    File {
        /// What was being done.
        op: &'static str,
        /// To which file.
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
