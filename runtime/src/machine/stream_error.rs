//! Why a stream to the agent closed. Unlike an [`Error`] it can be cloned, for several waiters.

use std::io;

use supermachine_formats::codec::DecodeError;
use supermachine_formats::wire::Failure;
use supermachine_vmm::{GuestFailure, MachineError};

use crate::Error;
use crate::error::{HostError, ProtocolError, WorkerError, out_of_memory};

/// How much of the console an error shows.
const CONSOLE_TAIL: usize = 2048;

/// Why a stream closed before it delivered what it was opened for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StreamError {
    Guest {
        failure: GuestFailure,
        console: String,
    },
    Stopped,
    /// The process that held the machine has exited.
    WorkerGone,
    AgentGone,
    Agent(Failure),
    Protocol(DecodeError),
    Unexpected {
        request: &'static str,
    },
    Unanswered {
        limit: std::time::Duration,
    },
    /// This side gave it up.
    Abandoned,
    Stream(io::ErrorKind),
}

/// The error of an operation on a machine. Replaces the bare fact that the guest has exited by the
/// reason and the console, if `exit` tells them.
pub(crate) fn explained(error: MachineError, exit: Option<StreamError>) -> Error {
    match (error, exit) {
        (MachineError::Ended { .. }, Some(exit)) => exit.into_error(),
        (error, _) => error.into(),
    }
}

impl StreamError {
    /// Converts into the error of an operation.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Guest { failure, console } => Error::Guest { failure, console },
            Self::Stopped => Error::Stopped,
            Self::WorkerGone => Error::Worker { source: WorkerError::Gone },
            Self::AgentGone => Error::Protocol { source: ProtocolError::AgentGone },
            Self::Agent(failure) => Error::Agent { failure },
            Self::Protocol(source) => {
                Error::Protocol { source: ProtocolError::Malformed { source } }
            }
            Self::Unexpected { request } => Error::unexpected(request),
            Self::Unanswered { limit } => Error::Unanswered { limit },
            Self::Abandoned => Error::Cancelled,
            Self::Stream(kind) => Error::Host { source: HostError::Stream { source: kind.into() } },
        }
    }

    /// Converts into the error of a reader or writer.
    pub(crate) fn into_io(self) -> io::Error {
        io_error(self.into_error())
    }
}

/// Wraps an error for a reader or writer, in the kind that fits best.
pub(crate) fn io_error(error: Error) -> io::Error {
    let kind = match &error {
        Error::Agent { failure } => kind_of(failure.errno),
        Error::Guest { .. }
        | Error::Stopped
        | Error::Worker { source: WorkerError::Gone }
        | Error::Protocol { source: ProtocolError::AgentGone }
        | Error::Cancelled => io::ErrorKind::ConnectionAborted,
        Error::Unanswered { .. } => io::ErrorKind::TimedOut,
        Error::Host { source: HostError::Stream { source } } => source.kind(),
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// The last lines of a console, as text, after the line that says why the guest failed.
pub(super) fn console_text(console: &[u8]) -> String {
    let (_, tail) = console.split_at(console.len().saturating_sub(CONSOLE_TAIL));
    let tail = String::from_utf8_lossy(tail).trim().to_owned();
    let whole = String::from_utf8_lossy(console);
    match out_of_memory(&whole) {
        Some(line) if out_of_memory(&tail).is_none() => format!("{}\n{tail}", line.trim()),
        _ => tail,
    }
}

/// The guest is Linux on every host, so its error numbers are named here.
fn kind_of(errno: u16) -> io::ErrorKind {
    match errno {
        1 | 13 => io::ErrorKind::PermissionDenied,
        2 => io::ErrorKind::NotFound,
        17 => io::ErrorKind::AlreadyExists,
        20 => io::ErrorKind::NotADirectory,
        21 => io::ErrorKind::IsADirectory,
        22 => io::ErrorKind::InvalidInput,
        28 => io::ErrorKind::StorageFull,
        30 => io::ErrorKind::ReadOnlyFilesystem,
        _ => io::ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_text_is_the_end_with_the_reason() {
        assert_eq!(console_text(b" one\ntwo\n"), "one\ntwo");
        let panic = "Kernel panic - not syncing: System is deadlocked on memory";
        let trace = "x".repeat(2 * CONSOLE_TAIL);
        let text = console_text(format!("first\n{panic}\n{trace}\n").as_bytes());
        assert!(text.starts_with(&format!("{panic}\nxxx")), "{text}");
        assert!(text.len() <= panic.len() + 1 + CONSOLE_TAIL);
        assert_eq!(console_text(format!("{panic}\nend").as_bytes()), format!("{panic}\nend"));
    }
}
