//! The protocol between host and agent: frames over vsock streams.
//!
//! The agent opens one control stream at boot. It stays open across snapshot and restore, and
//! carries [`Control`] to the agent and [`Event`] back. The host opens every other stream for one
//! request: it sends a [`Request`] and [`Input`], and the agent answers with [`Reply`] messages up
//! to a final one. On a stream for a TCP connection, the connection's bytes follow; those of the
//! host come as [`Segment`]s if the request says so. On a stream for a UDP flow, each further frame
//! is a [`Datagram`], in both directions. `SPEC.md` has layouts and limits.

mod control;
mod datagram;
mod failure;
mod field;
mod frame;
mod input;
mod reply;
mod request;
mod segment;
mod settings;
#[cfg(test)]
mod tests;

pub use self::control::{Control, Event, MAX_SHARES, MAX_VOLUMES, Network, Resume, Share, Volume};
pub use self::datagram::{Datagram, MAX_DATAGRAM};
pub use self::failure::{Failure, Operation};
pub use self::field::WindowSize;
pub use self::frame::{
    CONTROL_PORT, ENTROPY_SIZE, HEADER_SIZE, Header, MAX_CHUNK, MAX_MODE, MAX_NAME, MAX_PARTS,
    MAX_PAYLOAD, MAX_STRINGS, Message, REQUEST_PORT, STDIN_WINDOW, VERSION,
};
pub use self::input::{Flow, Input, Output};
pub use self::reply::{Exit, ExitStatus, Memory, Reply};
pub use self::request::{
    Action, AfterRestore, Command, Container, DEFAULT_STOP_SIGNAL, Process, Readiness, Request,
    StagedFile, WriteFile,
};
pub use self::segment::Segment;
pub use self::settings::{Settings, Tmpfs, Ulimit};
