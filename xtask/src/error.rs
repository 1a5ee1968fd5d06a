//! The errors of development tasks.

use std::io;
use std::path::{Path, PathBuf};

/// The error of every task.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot {op} {}", path.display())]
    File { op: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot start {program}")]
    Start { program: String, source: io::Error },
    #[error("{command} failed with {status}")]
    Command { command: String, status: String },
    #[error("cannot {op}")]
    System { op: &'static str, source: io::Error },
    #[error("{what}: expected {expected}, found {found}")]
    Unexpected { what: &'static str, expected: String, found: String },
    #[error("this machine's hypervisor does not work")]
    Hypervisor { source: supermachine_vmm::HypervisorError },
    #[error("the emulated host stopped before the command: {reason}; its last output:\n{log}")]
    HostDied { reason: String, log: String },
}

impl Error {
    /// For `map_err`: an operation on a file failed.
    pub(crate) fn file(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { op, path, source }
    }

    /// For `map_err`: a system call failed.
    pub(crate) fn system(op: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { op, source }
    }
}

/// An error and its sources on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
