//! Exit statuses of `run` and `exec`.

use supermachine::{ExecOutcome, ExitStatus};

use crate::error::{Error, GuestCommandError};

/// The exit status for failures of supermachine itself.
pub(crate) const FAILED: u8 = 125;
const TIMED_OUT: u8 = 124;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
const BY_SIGNAL: u8 = 128;

/// The exit statuses of `run` and `exec`, for their help.
pub(crate) const STATUSES: &str = "\
Exit status: the command's, or
  124    the command ran longer than --timeout
  125    supermachine itself failed
  126    the program exists but cannot be executed
  127    the program does not exist
  128+N  signal N killed the command

SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to the command, unless -it
connects it to this terminal. A second SIGINT kills this process.";

/// The exit status for an error of `run` or `exec`.
pub(crate) fn of_error(error: &Error) -> u8 {
    match error {
        Error::GuestCommand(GuestCommandError::NotFound { .. }) => NOT_FOUND,
        Error::GuestCommand(GuestCommandError::NotExecutable { .. }) => NOT_EXECUTABLE,
        _ => FAILED,
    }
}

/// The exit status for the outcome of a command.
pub(crate) fn of_outcome(outcome: &ExecOutcome) -> u8 {
    if outcome.timed_out { TIMED_OUT } else { of_exit(outcome.status) }
}

/// The exit status as a shell reports it.
pub(crate) fn of_exit(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => {
            u8::try_from(signal).map_or(u8::MAX, |number| BY_SIGNAL.saturating_add(number))
        }
        (None, None) => FAILED,
    }
}
