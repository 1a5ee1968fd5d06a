//! One connection: a client's socket and the guest's stream that it is carried on.
//!
//! Owns both descriptors and what waits in each direction: at most one piece of what was read,
//! since nothing is read while something waits. Both descriptors are watched by edges, so that it
//! remembers what may be readable or writable. Invariant: a connection that broke on one side is
//! never shown to the other as one that ended.
//!
//! What the client sends goes to the guest as [`Segment`]s, so that this side of the stream is
//! never half-closed: an end of the guest's bytes on a stream that is not hung up is their end,
//! any other is a connection that broke.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use supermachine_formats::wire::{
    HEADER_SIZE, Header, MAX_CHUNK, MAX_NAME, Message, Reply, Segment,
};

use super::sys;

/// Pieces moved at a time, before others have their turn.
const TURNS: u32 = 8;
/// The longest answer to a request for a connection.
const MAX_REPLY: usize = HEADER_SIZE + 4 * MAX_NAME;
/// What a relay reads into: a piece with room for its header.
pub(super) const SCRATCH: usize = HEADER_SIZE + MAX_CHUNK;

/// Which of the two descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Guest,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It waits for something to happen.
    Waits,
    /// It could go on at once, but it is others' turn.
    Yields,
    /// Both sides have ended.
    Ended,
    /// A side broke, or the guest refused.
    Broke,
    /// The stream ended without an answer.
    Unanswered,
}

/// Why no more can be moved.
enum Broken {
    Link,
    Unanswered,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Link
    }
}

/// One of the two descriptors, with what waits to be sent to it.
#[derive(Debug)]
struct End {
    fd: OwnedFd,
    readable: bool,
    writable: bool,
    waiting: Vec<u8>,
    sent: usize,
    /// It sends no more.
    is_done: bool,
    /// It was told that it gets no more.
    is_told: bool,
    /// It takes no more; what it sent before may still be read.
    is_broken: bool,
}

impl End {
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

    /// Reads what is there; none if nothing is, 0 at the end.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        while self.readable {
            match sys::receive(&self.fd, buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Sends what there is room for, and keeps the rest.
    fn send(&mut self, bytes: &[u8]) {
        let sent = if self.waiting.is_empty() { self.write(bytes) } else { 0 };
        if !self.is_broken {
            self.waiting.extend_from_slice(bytes.get(sent..).unwrap_or_default());
        }
    }

    /// Sends what waits. True: nothing does any more, and there may be room.
    fn flush(&mut self) -> bool {
        if self.waiting.is_empty() {
            return !self.is_broken;
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.sent += self.write(waiting.get(self.sent..).unwrap_or_default());
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
            match sys::send(&self.fd, rest) {
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
        // There is news at a socket that breaks: what it sent before, or its end.
        self.readable = true;
        self.waiting = Vec::new();
    }
}

/// A connection. See the module.
#[derive(Debug)]
pub(super) struct Link {
    client: End,
    guest: End,
    /// The guest's answer as far as it came; none once it is whole.
    reply: Option<Vec<u8>>,
    /// Whether the client's side is not connected yet.
    is_connecting: bool,
}

impl Link {
    /// A client that has connected, and a stream on which the guest was asked to.
    pub(super) fn new(client: OwnedFd, guest: UnixStream) -> Self {
        let (client, guest) = (End::new(client), End::new(guest.into()));
        Self { client, guest, reply: Some(Vec::new()), is_connecting: false }
    }

    /// A socket that is about to be connected, for a connection that the guest has made.
    pub(super) fn connecting(socket: OwnedFd, guest: UnixStream) -> Self {
        let mut link = Self::new(socket, guest);
        link.is_connecting = true;
        link.client.writable = false;
        link
    }

    /// The descriptors, to be watched.
    pub(super) fn descriptors(&self) -> [(Side, RawFd); 2] {
        [(Side::Client, self.client.fd.as_raw_fd()), (Side::Guest, self.guest.fd.as_raw_fd())]
    }

    /// Notes what happened at a descriptor.
    pub(super) fn hear(&mut self, side: Side, readable: bool, writable: bool) {
        let end = match side {
            Side::Client => &mut self.client,
            Side::Guest => &mut self.guest,
        };
        end.readable |= readable;
        end.writable |= writable;
    }

    /// Moves what can be moved.
    pub(super) fn advance(&mut self, scratch: &mut [u8]) -> Outcome {
        if self.is_connecting {
            if !self.client.writable {
                return Outcome::Waits;
            }
            if sys::outcome(&self.client.fd).is_err() {
                return Outcome::Broke;
            }
            self.is_connecting = false;
            // Only slower without.
            let _ = sys::send_at_once(&self.client.fd);
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
            // A guest that takes no more, and of whose bytes the client has all that it ever gets.
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

    /// Has the client find the connection reset once it is dropped.
    pub(super) fn reset_client(&self) {
        // A client on this host, by a socket file, is not told apart an end from a reset.
        let _ = sys::reset_on_close(&self.client.fd);
    }

    /// From the client to the guest. True: something was moved.
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
                self.guest.send(scratch.get(..HEADER_SIZE + length).unwrap_or_default());
            }
            Err(_) => {
                self.client.break_off();
                self.client.is_done = true;
            }
        }
        true
    }

    /// From the guest to the client. True: something was moved.
    fn outward(&mut self, scratch: &mut [u8]) -> Result<bool, Broken> {
        if !self.client.flush() || self.guest.is_done {
            if self.guest.is_done && self.client.waiting.is_empty() && !self.client.is_told {
                self.client.is_told = true;
                // A client that is gone is noticed when it is read.
                let _ = sys::shut_down_sending(&self.client.fd);
                return Ok(true);
            }
            return Ok(false);
        }
        if self.reply.is_some() {
            return self.take_reply();
        }
        match self.guest.receive(scratch)? {
            None => return Ok(false),
            Some(0) if sys::is_hung_up(&self.guest.fd) => return Err(Broken::Link),
            Some(0) => self.guest.is_done = true,
            Some(count) => self.client.send(scratch.get(..count).unwrap_or_default()),
        }
        Ok(true)
    }

    /// Reads the guest's answer, and nothing behind it. True: something came.
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
        let received = self.guest.receive(reply.get_mut(start..).unwrap_or_default());
        let count = received.as_ref().ok().copied().flatten().unwrap_or(0);
        reply.truncate(start + count);
        match received? {
            None => Ok(false),
            Some(0) => Err(Broken::Unanswered),
            Some(_) => Ok(true),
        }
    }
}
