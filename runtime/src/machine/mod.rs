//! A machine as the rest of this crate sees it: a [`MachineHandle`], whether the machine is in this
//! process or in a worker.
//!
//! Commands, files and ports use the streams that a handle opens, and nothing else. The handle of a
//! machine in this process is made by a [`LocalMachine`], which owns the machine; the other
//! implementation is `worker::Client`.

mod handle;
mod local;
mod stream_error;
#[cfg(test)]
pub(crate) mod testing;

#[cfg(feature = "tokio")]
pub use self::handle::Awaited;
pub use self::handle::Blocking;
#[cfg(feature = "tokio")]
pub(crate) use self::handle::EXIT_POLL_INTERVAL;
pub(crate) use self::handle::{AgentStream, MachineHandle, StoredSnapshot};
pub(crate) use self::local::{LocalMachine, Setup, observe, plugged};
pub use self::local::{console_tail, resume};
pub(crate) use self::stream_error::{StreamError, explained};
