//! A request in progress, and the agent's messages on its stream.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use supermachine_formats::wire::{
    Event, HEADER_SIZE, Header, Message, REQUEST_PORT, Reply, Request,
};
use supermachine_vmm::Machine;

use super::request::frame;
use crate::Error;
use crate::error::{HostError, ProtocolError};
use crate::machine::{AgentStream, MachineHandle, observe};

/// A request in progress, with its replies in order.
#[derive(Debug)]
pub struct Replies {
    stream: UnixStream,
    machine: Arc<dyn MachineHandle>,
    /// Whether this side closed the stream.
    closed: Arc<AtomicBool>,
    limit: Option<Duration>,
}

impl Replies {
    /// Sends a request.
    ///
    /// # Errors
    /// The request is too large or has a zero byte in a text, or the stream cannot be opened.
    pub fn open(machine: &Machine, request: &Request) -> Result<Self, Error> {
        let stream = machine.connect(REQUEST_PORT, &frame(request)?)?;
        Ok(Self::on(AgentStream { stream, machine: observe(machine) }))
    }

    /// Wraps a stream on which the request was sent.
    pub(crate) fn on(line: AgentStream) -> Self {
        let AgentStream { stream, machine } = line;
        Self { stream, machine, closed: Arc::default(), limit: None }
    }

    /// Sets the timeout of each reply.
    ///
    /// # Errors
    /// `limit` is zero, or the stream is closed.
    pub fn set_limit(&mut self, limit: Option<Duration>) -> Result<(), Error> {
        self.stream.set_read_timeout(limit).map_err(Error::stream)?;
        self.limit = limit;
        Ok(())
    }

    /// A handle that closes the stream from another thread.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn closer(&self) -> Result<Closer, Error> {
        let stream = self.stream.try_clone().map_err(Error::stream)?;
        Ok(Closer { stream, closed: Arc::clone(&self.closed) })
    }

    /// Sends a further message to the agent.
    ///
    /// # Errors
    /// The stream is closed.
    pub fn send(&mut self, message: &impl Message) -> Result<(), Error> {
        self.stream.write_all(&message.to_frame()).map_err(Error::stream)
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    /// The agent sent none, or the guest has exited.
    #[expect(
        clippy::should_implement_trait,
        reason = "an error or a final reply ends it, not the lack of a next one"
    )]
    pub fn next(&mut self) -> Result<Reply, Error> {
        match read_message(&mut self.stream, self.limit) {
            // A plain flag: no other data depends on it.
            Err(Error::Protocol { source: ProtocolError::AgentGone })
                if self.closed.load(Ordering::Relaxed) =>
            {
                Err(Error::Protocol { source: ProtocolError::AgentGone })
            }
            Err(
                Error::Protocol { source: ProtocolError::AgentGone }
                | Error::Host { source: HostError::Stream { .. } },
            ) => Err(self.machine.wait_exit().into_error()),
            result => result,
        }
    }

    /// Waits for the only reply of a request.
    ///
    /// # Errors
    /// [`Error::Agent`] when the agent refused the request.
    pub fn only(mut self) -> Result<Reply, Error> {
        match self.next()? {
            Reply::Failed(failure) => Err(Error::Agent { failure }),
            reply => Ok(reply),
        }
    }
}

/// Closes a request's stream; a thread that waits for a reply gets an error.
#[derive(Debug)]
pub struct Closer {
    stream: UnixStream,
    closed: Arc<AtomicBool>,
}

impl Closer {
    /// Ends the stream.
    pub fn close(self) {
        self.closed.store(true, Ordering::Relaxed);
        // It fails for a stream that is closed already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Reads the agent's next message on the control stream.
///
/// # Errors
/// It sent none within `limit`, or the guest has exited.
pub fn next_event(
    machine: &Machine,
    control: &mut UnixStream,
    limit: Option<Duration>,
) -> Result<Event, Error> {
    control.set_read_timeout(limit).map_err(Error::stream)?;
    match read_message(control, limit) {
        Err(
            Error::Protocol { source: ProtocolError::AgentGone }
            | Error::Host { source: HostError::Stream { .. } },
        ) => Err(observe(machine).wait_exit().into_error()),
        result => result,
    }
}

pub(crate) fn read_message<M: Message>(
    stream: &mut impl Read,
    limit: Option<Duration>,
) -> Result<M, Error> {
    let mut header = [0; HEADER_SIZE];
    read(stream, &mut header, limit)?;
    let header = Header::decode(header).map_err(Error::malformed)?;
    let mut payload = vec![0; header.length];
    read(stream, &mut payload, limit)?;
    M::decode(header.kind, &payload).map_err(Error::malformed)
}

fn read(stream: &mut impl Read, buffer: &mut [u8], limit: Option<Duration>) -> Result<(), Error> {
    stream.read_exact(buffer).map_err(|source| match (source.kind(), limit) {
        (io::ErrorKind::UnexpectedEof, _) => Error::Protocol { source: ProtocolError::AgentGone },
        (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, Some(limit)) => {
            Error::Unanswered { limit }
        }
        _ => Error::Host { source: HostError::Stream { source } },
    })
}
