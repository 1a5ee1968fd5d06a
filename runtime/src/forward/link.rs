//! One connection: a client's socket, and the stream to the guest that carries it.
//!
//! It owns both descriptors and the unsent bytes of each direction: at most one piece, as it reads
//! nothing while bytes wait. Both descriptors are edge-triggered, so it remembers which may be
//! readable or writable. Invariant: a connection that breaks on one side never looks cleanly closed
//! to the other.
//!
//! The client's bytes go to the guest as [`Segment`]s, so this side of the stream is never
//! half-closed. End of file on a stream that has not hung up closes the guest's direction; any
//! other means that the connection broke.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

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
    Ended,
    /// A side broke, or the guest refused the connection.
    Broke,
    /// The stream closed without a reply.
    Unanswered,
}

/// Why no more bytes can move.
enum Broken {
    Link,
    Unanswered,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Link
    }
}

/// One of the two descriptors, with its unsent bytes.
#[derive(Debug)]
struct StreamError {
    fd: OwnedFd,
    readable: bool,
    writable: bool,
    waiting: Vec<u8>,
    sent: usize,
    /// It has closed its sending direction.
    is_done: bool,
    /// It has seen the end of the other side's bytes.
    is_told: bool,
    /// It accepts no more bytes; those that it sent may still be read.
    is_broken: bool,
}

impl StreamError {
    fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            readable: true,
            writable: true,
            waiting: Vec::new(),
            sent: 0,
            is_done: false,
            is_told: false,
            is_broken: false,
        }
    }

    /// Reads available bytes: `None` if there are none, 0 at end of file.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        while self.readable {
            match os::receive(&self.fd, buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Sends as much as fits, and keeps the rest.
    fn send(&mut self, bytes: &[u8]) {
        let sent = if self.waiting.is_empty() { self.write(bytes) } else { 0 };
        if !self.is_broken {
            self.waiting.extend_from_slice(&bytes[sent..]);
        }
    }

    /// Sends the kept bytes. Returns whether none are left and the descriptor may take more.
    fn flush(&mut self) -> bool {
        if self.waiting.is_empty() {
            return !self.is_broken;
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.sent += self.write(&waiting[self.sent..]);
        if self.is_broken {
            return false;
        }
        if self.sent < waiting.len() {
            self.waiting = waiting;
            return false;
        }
        self.sent = 0;
        true
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty() && self.writable) {
            match os::send(&self.fd, rest) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.writable = false;
                    self.break_off();
                }
            }
        }
        sent
    }

    fn break_off(&mut self) {
        self.is_broken = true;
        // A broken socket is readable: earlier bytes, or end of file.
        self.readable = true;
        self.waiting = Vec::new();
    }
}

/// A connection. See the module.
#[derive(Debug)]
pub(super) struct Link {
    client: StreamError,
    guest: StreamError,
    /// The guest's reply so far; `None` once it is complete.
    reply: Option<Vec<u8>>,
    /// Whether the client's side is still connecting.
    is_connecting: bool,
}

impl Link {
    /// A connected client, and a stream with the request to connect it.
    pub(super) fn new(client: OwnedFd, guest: UnixStream) -> Self {
        let (client, guest) = (StreamError::new(client), StreamError::new(guest.into()));
        Self { client, guest, reply: Some(Vec::new()), is_connecting: false }
    }

    /// A connecting socket, for a connection that the guest has made.
    pub(super) fn connecting(socket: OwnedFd, guest: UnixStream) -> Self {
        let mut link = Self::new(socket, guest);
        link.is_connecting = true;
        link.client.writable = false;
        link
    }

    /// The descriptors to watch.
    pub(super) fn descriptors(&self) -> [(Side, RawFd); 2] {
        [(Side::Client, self.client.fd.as_raw_fd()), (Side::Guest, self.guest.fd.as_raw_fd())]
    }

    /// Records an event of a descriptor.
    pub(super) fn hear(&mut self, side: Side, readable: bool, writable: bool) {
        let end = match side {
            Side::Client => &mut self.client,
            Side::Guest => &mut self.guest,
        };
        end.readable |= readable;
        end.writable |= writable;
    }

    /// Moves as many bytes as possible.
    pub(super) fn advance(&mut self, scratch: &mut [u8]) -> Outcome {
        if self.is_connecting {
            if !self.client.writable {
                return Outcome::Waits;
            }
            if os::outcome(&self.client.fd).is_err() {
                return Outcome::Broke;
            }
            self.is_connecting = false;
            // Without it, the connection is only slower.
            let _ = os::send_at_once(&self.client.fd);
        }
        for _ in 0..TURNS {
            let moved = self.inward(scratch);
            let moved = match (self.outward(scratch), moved) {
                (Ok(outward), inward) => outward || inward,
                (Err(Broken::Link), _) => return Outcome::Broke,
                (Err(Broken::Unanswered), _) => return Outcome::Unanswered,
            };
            if self.client.is_broken && self.client.is_done && self.guest.waiting.is_empty() {
                return Outcome::Broke;
            }
            // The guest accepts no more, and the client has all of the guest's bytes that it can
            // get.
            let is_served = self.guest.is_done && self.client.waiting.is_empty();
            if self.guest.is_broken && (is_served || self.client.is_broken) {
                return Outcome::Broke;
            }
            let ends = [&self.client, &self.guest];
            if ends.iter().all(|end| end.is_done && end.is_told && end.waiting.is_empty()) {
                return Outcome::Ended;
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
        let _ = os::reset_on_close(&self.client.fd);
    }

    /// Moves bytes from the client to the guest. Returns whether any moved.
    fn inward(&mut self, scratch: &mut [u8]) -> bool {
        if !self.guest.flush() {
            return false;
        }
        if self.client.is_done {
            if !self.client.is_broken && !self.guest.is_told {
                self.guest.is_told = true;
                self.guest.send(&Segment::End.to_frame());
                return true;
            }
            return false;
        }
        let Some((header, piece)) = scratch.split_at_mut_checked(HEADER_SIZE) else { return false };
        match self.client.receive(piece) {
            Ok(None) if !self.client.is_broken => return false,
            Ok(None | Some(0)) => self.client.is_done = true,
            Ok(Some(length)) => {
                header.copy_from_slice(&Header { length, kind: Segment::DATA }.encode());
                self.guest.send(&scratch[..HEADER_SIZE + length]);
            }
            Err(_) => {
                self.client.break_off();
                self.client.is_done = true;
            }
        }
        true
    }

    /// Moves bytes from the guest to the client. Returns whether any moved.
    fn outward(&mut self, scratch: &mut [u8]) -> Result<bool, Broken> {
        if !self.client.flush() || self.guest.is_done {
            if self.guest.is_done && self.client.waiting.is_empty() && !self.client.is_told {
                self.client.is_told = true;
                // The next read notices a client that is gone.
                let _ = os::shut_down_sending(&self.client.fd);
                return Ok(true);
            }
            return Ok(false);
        }
        if self.reply.is_some() {
            return self.take_reply();
        }
        match self.guest.receive(scratch)? {
            None => return Ok(false),
            Some(0) if os::is_hung_up(&self.guest.fd) => return Err(Broken::Link),
            Some(0) => self.guest.is_done = true,
            Some(count) => self.client.send(&scratch[..count]),
        }
        Ok(true)
    }

    /// Reads the guest's reply and no byte beyond it. Returns whether any byte came.
    fn take_reply(&mut self) -> Result<bool, Broken> {
        let Some(reply) = &mut self.reply else { return Ok(false) };
        let wanted = match reply.first_chunk() {
            None => HEADER_SIZE,
            Some(header) => {
                let header = Header::decode(*header).map_err(|_| Broken::Link)?;
                HEADER_SIZE + header.length
            }
        };
        if wanted > MAX_REPLY {
            return Err(Broken::Link);
        }
        if reply.len() == wanted
            && let Some((header, payload)) = reply.split_first_chunk()
        {
            let header = Header::decode(*header).map_err(|_| Broken::Link)?;
            let reply = Reply::decode(header.kind, payload).map_err(|_| Broken::Link)?;
            self.reply = None;
            return if reply == Reply::Connected { Ok(true) } else { Err(Broken::Link) };
        }
        let start = reply.len();
        reply.resize(wanted, 0);
        let received = self.guest.receive(&mut reply[start..]);
        let count = received.as_ref().ok().copied().flatten().unwrap_or(0);
        reply.truncate(start + count);
        match received? {
            None => Ok(false),
            Some(0) => Err(Broken::Unanswered),
            Some(_) => Ok(true),
        }
    }
}
