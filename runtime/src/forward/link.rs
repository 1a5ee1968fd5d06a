//! One connection: a client's socket, and the stream to the guest that carries it.
//!
//! It owns both as [`Endpoint`]s, and reads nothing for one with bytes in its queue. Invariant: a
//! connection that breaks on one side never looks cleanly closed to the other. The agent's half is
//! the mirror image: it takes segments apart where this side makes them.
//!
//! The client's bytes go to the guest as [`Segment`]s, so this side of the stream is never
//! half-closed. End of file on a stream that has not hung up closes the guest's direction; any
//! other means that the connection broke.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use supermachine_formats::relay::{Endpoint, Socket};
use supermachine_formats::wire::{
    HEADER_SIZE, Header, MAX_CHUNK, MAX_NAME, Message, Reply, Segment,
};

use crate::os;

/// Pieces to move before other connections get their turn.
const TURNS: u32 = 8;
/// The longest reply to a request for a connection.
const MAX_REPLY: usize = HEADER_SIZE + 4 * MAX_NAME;
/// The size of a relay's buffer: a piece and its header.
pub(super) const SCRATCH: usize = HEADER_SIZE + MAX_CHUNK;

/// One of the two descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Guest,
}

/// The result of an advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It waits for an event.
    Waits,
    /// It could continue, but other connections get their turn.
    Yields,
    /// Both directions are closed.
    Closed,
    /// A side broke, or the guest refused the connection.
    Broken,
    /// The stream closed without a reply.
    Unanswered,
}

/// Why no more bytes can move.
enum LinkError {
    Broken,
    Unanswered,
}

impl From<io::Error> for LinkError {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

/// A socket whose calls never block.
#[derive(Debug)]
struct NonblockingSocket(OwnedFd);

impl Socket for NonblockingSocket {
    type Error = io::Error;

    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        unless_blocked(|| os::receive(&self.0, buffer))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        unless_blocked(|| os::send(&self.0, bytes))
    }

    fn shut_down_sending(&self) -> io::Result<()> {
        os::shut_down_sending(&self.0)
    }
}

/// Repeats a call that is interrupted. Returns `None` if it would block.
fn unless_blocked(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(Some),
        }
    }
}

/// A connection. See the module.
#[derive(Debug)]
pub(super) struct Link {
    client: Endpoint<NonblockingSocket>,
    guest: Endpoint<NonblockingSocket>,
    /// The guest's reply so far; `None` once it is complete.
    reply: Option<Vec<u8>>,
    /// Whether the client's side is still connecting.
    is_connecting: bool,
}

impl Link {
    /// A connected client, and a stream with the request to connect it.
    pub(super) fn new(client: OwnedFd, guest: UnixStream) -> Self {
        Self {
            client: Endpoint::new(NonblockingSocket(client)),
            guest: Endpoint::new(NonblockingSocket(guest.into())),
            reply: Some(Vec::new()),
            is_connecting: false,
        }
    }

    /// A connecting socket, for a connection that the guest has made.
    pub(super) fn connecting(socket: OwnedFd, guest: UnixStream) -> Self {
        let mut link = Self::new(socket, guest);
        link.is_connecting = true;
        link.client.await_room();
        link
    }

    /// The descriptors to watch.
    pub(super) fn descriptors(&self) -> [(Side, RawFd); 2] {
        let raw = |end: &Endpoint<NonblockingSocket>| end.socket().0.as_raw_fd();
        [(Side::Client, raw(&self.client)), (Side::Guest, raw(&self.guest))]
    }

    /// Records an event of a descriptor.
    pub(super) fn hear(&mut self, side: Side, readable: bool, writable: bool) {
        match side {
            Side::Client => self.client.hear(readable, writable),
            Side::Guest => self.guest.hear(readable, writable),
        }
    }

    /// Moves as many bytes as possible.
    pub(super) fn advance(&mut self, scratch: &mut [u8]) -> Outcome {
        if self.is_connecting {
            if !self.client.is_writable() {
                return Outcome::Waits;
            }
            if os::outcome(&self.client.socket().0).is_err() {
                return Outcome::Broken;
            }
            self.is_connecting = false;
            // Without it, the connection is only slower.
            let _ = os::send_at_once(&self.client.socket().0);
        }
        for _ in 0..TURNS {
            let moved = self.inward(scratch);
            let moved = match (self.outward(scratch), moved) {
                (Ok(outward), inward) => outward || inward,
                (Err(LinkError::Broken), _) => return Outcome::Broken,
                (Err(LinkError::Unanswered), _) => return Outcome::Unanswered,
            };
            if self.client.is_broken() && self.client.has_finished && self.guest.is_flushed() {
                return Outcome::Broken;
            }
            // The guest accepts no more, and the client has all of the guest's bytes that it can
            // get.
            let is_served = self.guest.has_finished && self.client.is_flushed();
            if self.guest.is_broken() && (is_served || self.client.is_broken()) {
                return Outcome::Broken;
            }
            let ends = [&self.client, &self.guest];
            if ends.iter().all(|end| end.has_finished && end.knows_end && end.is_flushed()) {
                return Outcome::Closed;
            }
            if !moved {
                return Outcome::Waits;
            }
        }
        Outcome::Yields
    }

    /// Makes the client's connection reset when it is dropped.
    pub(super) fn reset_client(&self) {
        // A client at a socket file cannot tell a reset from end of file.
        let _ = os::reset_on_close(&self.client.socket().0);
    }

    /// Moves bytes from the client to the guest. Returns whether any moved.
    fn inward(&mut self, scratch: &mut [u8]) -> bool {
        if !self.guest.flush() {
            return false;
        }
        if self.client.has_finished {
            if !self.client.is_broken() && !self.guest.knows_end {
                self.guest.knows_end = true;
                self.guest.send(&Segment::End.to_frame());
                return true;
            }
            return false;
        }
        let Some((header, piece)) = scratch.split_at_mut_checked(HEADER_SIZE) else { return false };
        match self.client.receive(piece) {
            Ok(None) if !self.client.is_broken() => return false,
            Ok(None | Some(0)) => self.client.has_finished = true,
            Ok(Some(length)) => {
                header.copy_from_slice(&Header { length, kind: Segment::DATA }.encode());
                self.guest.send(&scratch[..HEADER_SIZE + length]);
            }
            Err(_) => {
                self.client.break_off();
                self.client.has_finished = true;
            }
        }
        true
    }

    /// Moves bytes from the guest to the client. Returns whether any moved.
    fn outward(&mut self, scratch: &mut [u8]) -> Result<bool, LinkError> {
        if !self.client.flush() || self.guest.has_finished {
            if self.guest.has_finished && self.client.is_flushed() && !self.client.knows_end {
                // The next read notices a client that is gone.
                let _ = self.client.tell_end();
                return Ok(true);
            }
            return Ok(false);
        }
        if self.reply.is_some() {
            return self.take_reply();
        }
        match self.guest.receive(scratch)? {
            None => return Ok(false),
            Some(0) if os::is_hung_up(&self.guest.socket().0) => return Err(LinkError::Broken),
            Some(0) => self.guest.has_finished = true,
            Some(count) => self.client.send(&scratch[..count]),
        }
        Ok(true)
    }

    /// Reads the guest's reply and no byte beyond it. Returns whether any byte came.
    fn take_reply(&mut self) -> Result<bool, LinkError> {
        let Some(reply) = &mut self.reply else { return Ok(false) };
        let wanted = match reply.first_chunk() {
            None => HEADER_SIZE,
            Some(header) => {
                let header = Header::decode(*header).map_err(|_| LinkError::Broken)?;
                HEADER_SIZE + header.length
            }
        };
        if wanted > MAX_REPLY {
            return Err(LinkError::Broken);
        }
        if reply.len() == wanted
            && let Some((header, payload)) = reply.split_first_chunk()
        {
            let header = Header::decode(*header).map_err(|_| LinkError::Broken)?;
            let reply = Reply::decode(header.kind, payload).map_err(|_| LinkError::Broken)?;
            self.reply = None;
            return if reply == Reply::Connected { Ok(true) } else { Err(LinkError::Broken) };
        }
        let start = reply.len();
        reply.resize(wanted, 0);
        let received = self.guest.receive(&mut reply[start..]);
        let count = received.as_ref().ok().copied().flatten().unwrap_or(0);
        reply.truncate(start + count);
        match received? {
            None => Ok(false),
            Some(0) => Err(LinkError::Unanswered),
            Some(_) => Ok(true),
        }
    }
}
