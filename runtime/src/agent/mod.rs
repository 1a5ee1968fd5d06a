//! Requests to the guest's agent, one stream each.
//!
//! This is how [`Vm`](crate::Vm) and the baker talk to the agent; applications use
//! [`Vm::exec_builder`](crate::Vm::exec_builder).

mod backlog;
mod delivery;
mod end;
mod frames;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transfer;
mod witness;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use supermachine_formats::wire::{
    Command, ENTROPY_SIZE, Event, HEADER_SIZE, Header, MAX_PAYLOAD, Message, REQUEST_PORT, Reply,
    Request, Resume,
};

use crate::Error;
use supermachine_vmm::{Machine, fill_random, realtime_ns};

pub(crate) use self::backlog::Backlog;
pub(crate) use self::delivery::beginning;
#[cfg(feature = "tokio")]
pub(crate) use self::delivery::{Delivery, piece};
#[cfg(feature = "tokio")]
pub(crate) use self::end::GUEST_END_INTERVAL;
pub(crate) use self::end::{End, io_error};
pub(crate) use self::frames::{Frames, PIECE};
pub(crate) use self::transfer::Transfer;
pub(crate) use self::witness::Witness;

/// How much of the console an error tells.
const CONSOLE_TAIL: usize = 2048;

/// A stream to the agent that a request was sent on.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) stream: UnixStream,
    /// Tells why it ended, once it has.
    pub(crate) witness: Witness,
}

impl Line {
    /// Opens a stream that begins with these frames.
    pub(crate) fn open(machine: &Machine, frames: &[u8]) -> Result<Self, Error> {
        let stream = machine.connect(REQUEST_PORT, frames)?;
        Ok(Self { stream, witness: Witness::Here(machine.exit_watch()) })
    }
}

/// A request under way: its replies, in order.
#[derive(Debug)]
pub struct Replies {
    stream: UnixStream,
    witness: Witness,
    /// Whether we ended the stream ourselves.
    closed: Arc<AtomicBool>,
    limit: Option<Duration>,
}

impl Replies {
    /// Sends a request.
    ///
    /// # Errors
    /// The request is too large or has a zero byte in a text, or the stream cannot be opened.
    pub fn open(machine: &Machine, request: &Request) -> Result<Self, Error> {
        Ok(Self::on(Line::open(machine, &frame(request)?)?))
    }

    /// The replies to the request that was sent on a stream.
    pub(crate) fn on(line: Line) -> Self {
        let Line { stream, witness } = line;
        Self { stream, witness, closed: Arc::default(), limit: None }
    }

    /// Gives up a reply that does not come within `limit`.
    ///
    /// # Errors
    /// The limit is zero, or the stream was closed.
    pub fn set_limit(&mut self, limit: Option<Duration>) -> Result<(), Error> {
        self.stream.set_read_timeout(limit).map_err(|source| Error::Stream { source })?;
        self.limit = limit;
        Ok(())
    }

    /// A handle that ends the stream from another thread.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn closer(&self) -> Result<Closer, Error> {
        let stream = self.stream.try_clone().map_err(|source| Error::Stream { source })?;
        Ok(Closer { stream, closed: Arc::clone(&self.closed) })
    }

    /// Sends a message to the agent behind the request.
    ///
    /// # Errors
    /// The stream was closed.
    pub fn send(&mut self, message: &impl Message) -> Result<(), Error> {
        self.stream.write_all(&message.to_frame()).map_err(|source| Error::Stream { source })
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    /// The agent gave none, or the guest has ended.
    #[expect(
        clippy::should_implement_trait,
        reason = "an error or a final reply ends it, not the lack of a next one"
    )]
    pub fn next(&mut self) -> Result<Reply, Error> {
        match read_message(&mut self.stream, self.limit) {
            // Only a flag: nothing else is read because of it.
            Err(Error::AgentGone) if self.closed.load(Ordering::Relaxed) => Err(Error::AgentGone),
            Err(Error::AgentGone | Error::Stream { .. }) => Err(explain(&self.witness)),
            result => result,
        }
    }

    /// Waits for the one reply of a request that has no output.
    ///
    /// # Errors
    /// [`Error::Agent`] when the agent could not carry it out.
    pub fn only(mut self) -> Result<Reply, Error> {
        match self.next()? {
            Reply::Failed(failure) => Err(Error::Agent { failure }),
            reply => Ok(reply),
        }
    }
}

/// Ends a request's stream; a thread that waits for a reply gets an error.
#[derive(Debug)]
pub struct Closer {
    stream: UnixStream,
    closed: Arc<AtomicBool>,
}

impl Closer {
    /// Ends the stream.
    pub fn close(self) {
        self.closed.store(true, Ordering::Relaxed);
        // A stream that has ended already needs no closing.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Reads the agent's next message on the control stream.
///
/// # Errors
/// It sent none within `limit`, or the guest has ended.
pub fn next_event(
    machine: &Machine,
    control: &mut UnixStream,
    limit: Option<Duration>,
) -> Result<Event, Error> {
    control.set_read_timeout(limit).map_err(|source| Error::Stream { source })?;
    match read_message(control, limit) {
        Err(Error::AgentGone | Error::Stream { .. }) => {
            Err(explain(&Witness::Here(machine.exit_watch())))
        }
        result => result,
    }
}

/// What a machine is told when it goes on: the time, fresh entropy, and its name.
///
/// # Errors
/// The operating system has no random bytes.
pub fn resume(hostname: Option<&str>) -> Result<Resume, Error> {
    let mut entropy = [0; ENTROPY_SIZE];
    fill_random(&mut entropy).map_err(|source| Error::NoEntropy { source })?;
    Ok(Resume { realtime_ns: realtime_ns(), entropy, hostname: hostname.map(str::to_owned) })
}

/// A request as it is sent.
///
/// # Errors
/// It is too large, or has a zero byte in a text.
pub(crate) fn frame(request: &Request) -> Result<Vec<u8>, Error> {
    if let Request::Exec(command) = request {
        refuse_zero_bytes(command)?;
    }
    let frame = request.to_frame();
    let size = frame.len() - HEADER_SIZE;
    if size > MAX_PAYLOAD {
        return Err(Error::CommandTooLarge { size, limit: MAX_PAYLOAD });
    }
    Ok(frame)
}

/// The agent does not answer a request with such texts, as its system could not use them.
fn refuse_zero_bytes(command: &Command) -> Result<(), Error> {
    let has_zero = |texts: &[Vec<u8>]| texts.iter().any(|text| text.contains(&0));
    let parts = [
        ("argument", has_zero(&command.argv) || command.chain.iter().any(|argv| has_zero(argv))),
        ("environment", has_zero(&command.env)),
        ("working directory", command.cwd.as_ref().is_some_and(|cwd| cwd.contains(&0))),
        ("user", command.user.as_ref().is_some_and(|user| user.contains('\0'))),
    ];
    match parts.into_iter().find(|(_, is_bad)| *is_bad) {
        Some((what, _)) => Err(Error::ZeroByte { what }),
        None => Ok(()),
    }
}

/// Why a stream ended: the guest's own end comes before that of its streams.
pub(crate) fn explain(witness: &Witness) -> Error {
    witness.end().into_error()
}

/// The last lines of the console, as text.
#[must_use]
pub fn console_tail(machine: &Machine) -> String {
    tail(&machine.console())
}

fn tail(console: &[u8]) -> String {
    let start = console.len().saturating_sub(CONSOLE_TAIL);
    String::from_utf8_lossy(console.get(start..).unwrap_or_default()).trim().to_owned()
}

pub(crate) fn read_message<M: Message>(
    stream: &mut impl Read,
    limit: Option<Duration>,
) -> Result<M, Error> {
    let mut header = [0; HEADER_SIZE];
    read(stream, &mut header, limit)?;
    let header = Header::decode(header).map_err(|source| Error::Protocol { source })?;
    let mut payload = vec![0; header.length];
    read(stream, &mut payload, limit)?;
    M::decode(header.kind, &payload).map_err(|source| Error::Protocol { source })
}

fn read(stream: &mut impl Read, buffer: &mut [u8], limit: Option<Duration>) -> Result<(), Error> {
    stream.read_exact(buffer).map_err(|source| match (source.kind(), limit) {
        (io::ErrorKind::UnexpectedEof, _) => Error::AgentGone,
        (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, Some(limit)) => {
            Error::Unanswered { limit }
        }
        _ => Error::Stream { source },
    })
}
