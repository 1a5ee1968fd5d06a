//! What host and agent say to each other: frames over vsock streams.
//!
//! One control stream is opened by the agent at boot and lives on across snapshot and
//! restore: it carries [`Control`] to the agent and [`Event`] back. Every other stream is one
//! request, opened by the host: a [`Request`], then [`Input`] to the agent and [`Reply`] back,
//! until a final reply. A stream that carries a TCP connection goes on with its bytes, from the
//! host as [`Segment`]s if the request says so. Layouts and limits are in `SPEC.md`.

mod control;
mod failure;
mod field;
mod frame;
mod input;
mod reply;
mod request;
mod segment;
#[cfg(test)]
mod tests;

pub use self::control::{Control, Event, Resume};
pub use self::failure::{Failure, Operation};
pub use self::field::WindowSize;
pub use self::frame::{
    CONTROL_PORT, ENTROPY_SIZE, HEADER_SIZE, Header, MAX_CHUNK, MAX_MODE, MAX_NAME, MAX_PARTS,
    MAX_PAYLOAD, MAX_STRINGS, Message, REQUEST_PORT, STDIN_WINDOW, VERSION,
};
pub use self::input::{Flow, Input, Output};
pub use self::reply::{Exit, ExitStatus, Memory, Reply};
pub use self::request::{Command, Container, Process, Request, StagedFile, WriteFile};
pub use self::segment::Segment;
