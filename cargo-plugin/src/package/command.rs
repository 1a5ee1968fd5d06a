//! Cargo as a process.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use super::arguments::Arguments;
use crate::error::CargoError;

/// The cargo that called us, or the one in `PATH`.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A cargo command with its arguments.
pub(crate) fn command(name: &str, arguments: &Arguments) -> Command {
    let mut cargo = cargo();
    cargo.arg(name).args(arguments.all());
    if arguments.is_offline() {
        // Cargo does not pass `--offline` to build scripts, and those that bake use the network.
        cargo.env("CARGO_NET_OFFLINE", "true");
    }
    cargo
}

/// Replaces this process by the command, which then gets signals and the terminal directly. Returns
/// only if the command cannot be started.
pub(crate) fn replace_process(mut command: Command) -> CargoError {
    let source = command.exec();
    CargoError::Start { program: command.get_program().to_owned(), source }
}

/// The exit status as a shell reports it.
pub(crate) fn status(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
