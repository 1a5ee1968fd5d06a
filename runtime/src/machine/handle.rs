//! The trait of all machines, and a stream to the agent of one.

use std::fmt::Debug;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use supermachine_formats::Digest;
use supermachine_vmm::{Captured, Machine};

use super::stream_error::StreamError;
use crate::Error;

/// How long after its streams a guest may exit: a reset closes the streams on its way.
const EXIT_LIMIT: Duration = Duration::from_secs(1);
/// How often the exit is looked for in that time.
pub(crate) const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Marks a builder whose calls block the calling thread.
#[derive(Debug, Clone, Copy)]
pub enum Blocking {}

/// Marks a builder whose calls are awaited.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Copy)]
pub enum Awaited {}

/// A machine, in this process or in a worker.
///
/// A handle does not keep the machine running: its owner does, and every call on a handle whose
/// machine has stopped fails with [`Error::Stopped`] or [`Error::Worker`].
pub(crate) trait MachineHandle: Debug + Send + Sync {
    /// Opens a stream to the agent and sends these frames on it.
    fn dial(&self, frames: &[u8]) -> Result<UnixStream, Error>;

    /// Why the machine's streams closed, or `None` while nothing explains it.
    fn exit(&self) -> Option<StreamError>;

    /// Whether the guest runs, as far as this process knows without a question to another one.
    fn is_healthy(&self) -> bool;

    /// The last of the guest kernel's messages.
    fn console(&self) -> Result<Vec<u8>, Error>;

    /// The processor time that the guest has used, and its exits to the host.
    fn usage(&self) -> Result<(Duration, u64), Error>;

    /// Has the worker capture its machine, which has this much memory, in bytes. The answer is not
    /// trusted. To capture a machine of this process, use [`keep_alive`](Self::keep_alive): as a
    /// method, the capture would be part of every program.
    fn request_capture(&self, _memory_size: u64) -> Result<Captured, Error> {
        Err(Error::Stopped)
    }

    /// Has the process that shares its machine store a snapshot.
    fn request_snapshot(&self, _name: &str) -> Result<StoredSnapshot, Error> {
        Err(Error::Stopped)
    }

    /// Pauses the vCPUs.
    fn pause(&self) -> Result<(), Error>;

    /// Resumes the vCPUs.
    fn resume(&self) -> Result<(), Error>;

    /// Stops a machine that this process does not own, and reports a guest that had already failed.
    fn stop(&self) -> Result<(), Error>;

    /// The machine itself, if it is in this process. It cannot be reset while the result is held,
    /// and stops only once that is dropped.
    fn keep_alive(&self) -> Option<Arc<Machine>>;
}

/// A snapshot that another process has stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredSnapshot {
    /// The store that holds it.
    pub(crate) store: PathBuf,
    pub(crate) digest: Digest,
    /// How long the guest was paused.
    pub(crate) stopped: Duration,
    /// How long the whole call took.
    pub(crate) took: Duration,
}

impl dyn MachineHandle {
    /// Why a stream that closed at `since` did so, or `None` while that is not known. A guest that
    /// fails explains its streams, so the agent is blamed only after a while.
    pub(crate) fn exit_since(&self, since: Instant) -> Option<StreamError> {
        let agent = || (since.elapsed() >= EXIT_LIMIT).then_some(StreamError::AgentGone);
        self.exit().or_else(agent)
    }

    /// Why a stream that closed now did so.
    pub(crate) fn wait_exit(&self) -> StreamError {
        let since = Instant::now();
        loop {
            if let Some(error) = self.exit_since(since) {
                return error;
            }
            // Nothing wakes a thread when a guest exits, and this path is rare.
            thread::sleep(EXIT_POLL_INTERVAL);
        }
    }
}

/// A stream to the agent, on which a request was sent.
#[derive(Debug)]
pub(crate) struct AgentStream {
    pub(crate) stream: UnixStream,
    /// Explains why the stream closed.
    pub(crate) machine: Arc<dyn MachineHandle>,
}

impl AgentStream {
    /// Opens a stream and sends these frames on it.
    pub(crate) fn open(machine: &Arc<dyn MachineHandle>, frames: &[u8]) -> Result<Self, Error> {
        Ok(Self { stream: machine.dial(frames)?, machine: Arc::clone(machine) })
    }
}
