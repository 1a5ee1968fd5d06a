//! Machines that one process, the worker, holds and other processes use.
//!
//! With [`VmConfig::with_isolated`](crate::VmConfig::with_isolated), a machine runs in a private
//! worker process: the program `supermachine-worker`, see [`main`]. It needs no file system: this
//! process opens memory and disks for it, and stores its captures. A process can also share the
//! machine that it holds: a [`Server`] serves it at a socket file, and a [`Client`] turns it into a
//! [`Vm`](crate::Vm) that works as a local one. Few messages cross the border: status, snapshots,
//! the stop, and the descriptors of streams to the guest's agent. Commands, files and ports use
//! those streams directly, so they run the same code on both sides and their bytes do not pass the
//! worker.
//!
//! Invariants: a server serves only processes of the same user or root; only its owner can connect
//! to the socket file, from its creation on. A client that disconnects leaves nothing behind: its
//! commands are killed with its streams.
//!
//! Both sides must have the same version: the messages are not a stable format.

mod capture;
mod client;
mod ends;
mod entrypoint;
mod message;
mod parcel;
mod parts;
mod process;
mod program;
mod server;
mod status;
#[cfg(test)]
mod tests;

pub use self::client::Client;
pub(crate) use self::process::Process;
pub use self::program::main;
#[doc(hidden)]
pub use self::program::main_locked;
pub use self::server::{Control, Server, Serving, Stopped};
pub(crate) use self::server::{Hosted, Owner};
pub use self::status::{State, Status};
pub use crate::assets::PROGRAM;
pub use crate::os::inherit_nothing;
