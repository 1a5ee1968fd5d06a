//! A machine that one process holds and others use: the worker's side and theirs.
//!
//! With [`VmConfig::with_isolated`] a machine is in a process of its own, which is this one's alone:
//! the program `supermachine-worker`, see [`main`]. A process can also serve the machine that it
//! holds: a [`Server`] holds a machine and serves it at a socket file; a [`Client`] gives a [`Vm`] that
//! behaves as if the machine were held here. What crosses the border is small: how the machine
//! fares, its end, a snapshot, and the descriptors of streams to the guest's agent. Commands, files
//! and ports go over those streams, so that they are the same code on either side, and no byte of
//! theirs passes the worker.
//!
//! Invariants: only processes of the same user, or root's, are served; the socket file is its
//! owner's alone from its first moment on. A client that is gone leaves nothing behind: what it
//! had begun ends with its streams.
//!
//! Both sides must be the same version: the messages are no format that is kept.

mod client;
mod message;
mod process;
mod program;
mod server;
mod sys;
#[cfg(test)]
mod tests;

pub use self::client::Client;
pub(crate) use self::process::Process;
pub use self::program::main;
pub use self::server::{Server, Stopped};
pub use self::sys::inherit_nothing;

use crate::ExitStatus;
#[cfg(doc)]
use crate::{Vm, VmConfig};
use supermachine_vmm::GuestFailure;

/// What [`main`] is built as: the program that holds isolated machines.
pub const PROGRAM: &str = "supermachine-worker";

/// What became of a machine that a worker holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The guest runs.
    Running,
    /// The guest is paused. See [`Vm::pause`](crate::Vm::pause).
    Paused,
    /// The guest runs, and its entrypoint has ended.
    Ended {
        /// How.
        status: ExitStatus,
    },
    /// The guest has ended by itself. Its worker goes on, to tell of it.
    Failed {
        /// How.
        failure: GuestFailure,
        /// The last lines of the guest kernel's messages.
        console: String,
    },
}

/// How a machine fares, as its worker tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// What the worker was given to tell those who ask.
    pub label: String,
    /// What became of the machine.
    pub state: State,
}
