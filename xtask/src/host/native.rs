//! This machine as a host.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use super::kind::Options;
use crate::command;
use crate::error::Error;

/// Runs a command here, within its time limit.
pub(super) fn run(command: &Command, options: &Options) -> Result<u8, Error> {
    let mut copy = match options.timeout {
        None => Command::new(command.get_program()),
        Some(limit) => {
            let mut timeout = Command::new("timeout");
            timeout.arg(limit.as_secs().to_string()).arg(command.get_program());
            timeout
        }
    };
    copy.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => copy.env(name, value),
            None => copy.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        copy.current_dir(folder);
    }
    let status = copy.status().map_err(|source| command::start(&copy, source))?;
    Ok(shell_status(status))
}

/// An exit status as a shell reports it: 128 plus the signal's number for a signal.
pub(crate) fn shell_status(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s));
    code.and_then(|c| u8::try_from(c).ok()).unwrap_or(u8::MAX)
}
