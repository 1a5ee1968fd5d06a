//! Why a stream to the agent ended. It can be told as often as somebody asks.

use std::io;
use std::time::Duration;

use supermachine_formats::codec::DecodeError;
use supermachine_formats::wire::Failure;

use super::tail;
use crate::Error;
use supermachine_vmm::GuestFailure;

/// How long after its streams a guest may end: a reset closes them on its way.
pub(super) const GUEST_END: Duration = Duration::from_secs(1);
/// How often it is looked at meanwhile.
pub(crate) const GUEST_END_INTERVAL: Duration = Duration::from_millis(5);

/// Why a stream ended without what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Guest {
        failure: GuestFailure,
        console: String,
    },
    Stopped,
    /// The process that held the machine has ended.
    WorkerGone,
    AgentGone,
    Agent(Failure),
    Protocol(DecodeError),
    Unexpected {
        request: &'static str,
    },
    Unanswered {
        limit: Duration,
    },
    /// It was given up on this side.
    Abandoned,
    Stream(io::ErrorKind),
}

impl End {
    /// Why a stream of this process's machine ended by itself; none if that is not known yet.
    pub(super) fn look(witness: &supermachine_vmm::ExitWatch) -> Option<Self> {
        if let Some(failure) = witness.failure() {
            return Some(Self::Guest { failure, console: tail(&witness.console()) });
        }
        witness.is_stopped().then_some(Self::Stopped)
    }

    /// As an error of an operation.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Guest { failure, console } => Error::Guest { failure, console },
            Self::Stopped => Error::Stopped,
            Self::WorkerGone => Error::WorkerGone,
            Self::AgentGone => Error::AgentGone,
            Self::Agent(failure) => Error::Agent { failure },
            Self::Protocol(source) => Error::Protocol { source },
            Self::Unexpected { request } => Error::UnexpectedReply { request },
            Self::Unanswered { limit } => Error::Unanswered { limit },
            Self::Abandoned => Error::Abandoned,
            Self::Stream(kind) => Error::Stream { source: kind.into() },
        }
    }

    /// As an error of a reader or writer.
    pub(crate) fn into_io(self) -> io::Error {
        io_error(self.into_error())
    }
}

/// An error of a reader or writer, of the kind that fits best.
pub(crate) fn io_error(error: Error) -> io::Error {
    let kind = match &error {
        Error::Agent { failure } => kind_of(failure.errno),
        Error::Guest { .. }
        | Error::Stopped
        | Error::WorkerGone
        | Error::AgentGone
        | Error::Abandoned => io::ErrorKind::ConnectionAborted,
        Error::Unanswered { .. } => io::ErrorKind::TimedOut,
        Error::Stream { source } => source.kind(),
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// The guest is Linux whatever the host is, so that its numbers are told here.
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
