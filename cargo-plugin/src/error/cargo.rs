//! Errors of cargo.

use std::ffi::OsString;
use std::io;

/// Why cargo failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CargoError {
    /// Cargo, or a program that it built, cannot be started.
    #[error("cannot start {}", program.display())]
    Start { program: OsString, source: io::Error },
    /// Cargo's messages cannot be read.
    #[error("cannot read cargo's messages")]
    Messages { source: io::Error },
    /// Cargo's configuration files cannot be read.
    #[error("cannot read cargo's configuration")]
    Configuration { source: cargo_config2::Error },
    /// `cargo metadata` failed.
    #[error("cannot read the package's metadata")]
    Metadata { source: Box<cargo_metadata::Error> },
    /// The workspace has no such package.
    #[error("the workspace has no package {name}")]
    NoPackage { name: String },
    /// Cargo's configuration is UTF-8, and this path is not.
    #[error("{} is not UTF-8, as cargo's configuration must be", path.display())]
    NotUtf8 { path: OsString },
    /// The path of this executable is unknown.
    #[error("cannot find the path of this executable")]
    CurrentExe { source: io::Error },
}
