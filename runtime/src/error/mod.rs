//! Why an operation failed, grouped by what the caller can do about it.

mod guest;
mod host;

use std::io;
use std::time::Duration;

use supermachine_formats::codec::DecodeError;
use supermachine_formats::wire::Failure;
use supermachine_snapshots::pack::PackError;
use supermachine_vmm::{GuestFailure, MachineError};

pub(crate) use self::guest::out_of_memory;
pub use self::guest::{PortError, ProtocolError, TransferError};
pub use self::host::{HostError, InvalidInput, SnapshotError, WorkerError};

/// Why an operation failed.
///
/// Each variant is a group of errors with the same remedy; its source says which one it is.
///
/// ```
/// use supermachine::error::InvalidInput;
/// use supermachine::{Error, Image};
///
/// let error = supermachine::AssetPaths::from_dir("snapshots").image("../etc").unwrap_err();
/// assert!(matches!(error, Error::Invalid { source: InvalidInput::SnapshotName { .. } }));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument can never be valid: correct the call.
    #[error(transparent)]
    Invalid {
        /// The argument, and its limits.
        #[from]
        source: InvalidInput,
    },
    /// The snapshot cannot be found or used: name, bake or import another.
    #[error(transparent)]
    Snapshot {
        /// What is wrong with it.
        #[from]
        source: SnapshotError,
    },
    /// This host cannot make, run or capture the machine.
    #[error("machine cannot be used")]
    Machine {
        /// Why.
        #[from]
        source: MachineError,
    },
    /// This host denied a file, a socket or another resource: check its rights and limits.
    #[error(transparent)]
    Host {
        /// The resource.
        #[from]
        source: HostError,
    },
    /// No machine of a pool became free in time: wait longer, or allow more machines.
    #[error(
        "no machine of the pool became free within {waited:?}: {in_use} of at most {max} are in use"
    )]
    PoolExhausted {
        /// How many are in use.
        in_use: usize,
        /// The most that the pool may have.
        max: usize,
        /// How long the caller waited.
        waited: Duration,
    },
    /// The guest exited by itself: start another machine.
    #[error("{}{failure}{}", guest::cause(.console), guest::shown(.console))]
    Guest {
        /// How it exited.
        failure: GuestFailure,
        /// The last lines of the guest kernel's messages.
        console: String,
    },
    /// The machine was stopped, dropped, or returned to its pool.
    #[error("the machine was stopped, or returned to its pool, while it was in use")]
    Stopped,
    /// The caller gave the operation up, by dropping its handle.
    #[error("cancelled: its handle was dropped")]
    Cancelled,
    /// The guest refused the request: its error number says why.
    #[error("in the guest, {failure}")]
    Agent {
        /// What failed, on what, with the guest's error number.
        failure: Failure,
    },
    /// The guest did not answer in time.
    #[error("the guest did not answer within {limit:?}")]
    Unanswered {
        /// How long the caller waited.
        limit: Duration,
    },
    /// The agent broke its protocol: bake the snapshot again, or stop trusting the guest.
    #[error(transparent)]
    Protocol {
        /// What it did.
        #[from]
        source: ProtocolError,
    },
    /// A reader or writer of the caller failed, or a command wrote too much.
    #[error(transparent)]
    Transfer {
        /// Which one.
        #[from]
        source: TransferError,
    },
    /// A port of the host or the guest cannot be used.
    #[error(transparent)]
    Port {
        /// The port, and why.
        #[from]
        source: PortError,
    },
    /// The worker, the process that holds the machine, cannot be started or used.
    #[error(transparent)]
    Worker {
        /// Why.
        #[from]
        source: WorkerError,
    },
}

impl Error {
    /// A stream to the guest failed.
    pub(crate) fn stream(source: io::Error) -> Self {
        HostError::Stream { source }.into()
    }

    /// The agent sent bytes that are no message.
    pub(crate) fn malformed(source: DecodeError) -> Self {
        ProtocolError::Malformed { source }.into()
    }

    /// The agent sent a message that the request does not allow.
    pub(crate) fn unexpected(request: &'static str) -> Self {
        ProtocolError::UnexpectedReply { request }.into()
    }
}

impl From<PackError> for Error {
    fn from(source: PackError) -> Self {
        SnapshotError::Pack { source }.into()
    }
}

impl From<supermachine_snapshots::Error> for Error {
    fn from(error: supermachine_snapshots::Error) -> Self {
        use supermachine_snapshots::Error::{Io, Pack};
        match error {
            Io { operation, path, source } => HostError::Io { operation, path, source }.into(),
            Pack { source } => source.into(),
        }
    }
}
