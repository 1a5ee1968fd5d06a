//! Packages as cargo knows them: building them, running them, and what they declare.
//!
//! Owns how cargo is started and what is read of its answers. Where something is, cargo tells;
//! no file's name is guessed.

mod arguments;
mod bakes;
mod build;
mod declared;
mod runner;
mod snapshots;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

pub(crate) use arguments::Arguments;
pub(crate) use bakes::{bake, declared, packs};
pub(crate) use build::{Built, build_as};
pub(crate) use declared::{Selection, bakes_in_its_build, folder, metadata, runs_machines};
pub(crate) use runner::{Program, configuration, target};
pub(crate) use snapshots::{
    FOLDER, Packs, file_name, link_beside, packs as packs_of_variables, unlink_beside,
};

/// Why cargo could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CargoError {
    /// Cargo could not be started.
    #[error("{} cannot be started", program.display())]
    Start { program: OsString, source: io::Error },
    /// Cargo's answer broke off.
    #[error("the messages of cargo cannot be read")]
    Messages { source: io::Error },
    /// What cargo is told by its configuration files.
    #[error("cargo's configuration cannot be read")]
    Configuration { source: cargo_config2::Error },
    /// Cargo does not tell of the package.
    #[error("what cargo knows of the package cannot be read")]
    Metadata { source: Box<cargo_metadata::Error> },
    /// A package that is not in the workspace.
    #[error("the workspace has no package {name}")]
    NoPackage { name: String },
    /// A path that cannot be put into cargo's configuration.
    #[error("{} is not UTF-8, as cargo's configuration must be", path.display())]
    NotText { path: OsString },
    /// Our own place is unknown.
    #[error("the place of this command is unknown")]
    Ourselves { source: io::Error },
}

/// The cargo that called us, or the one that is found.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A cargo command with its arguments.
pub(crate) fn command(name: &str, arguments: &Arguments) -> Command {
    let mut cargo = cargo();
    cargo.arg(name).args(arguments.all());
    if arguments.is_offline() {
        // Cargo keeps it to itself, and build scripts that bake use a network as well.
        cargo.env("CARGO_NET_OFFLINE", "true");
    }
    cargo
}

/// Becomes the command; returns only if it cannot be started. So signals and the terminal are
/// its own, and nobody stands between it and its caller.
pub(crate) fn become_command(mut command: Command) -> CargoError {
    let source = command.exec();
    CargoError::Start { program: command.get_program().to_owned(), source }
}

/// The exit status to pass on, as a shell tells it.
pub(crate) fn status(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
