//! One TCP connection and the host's stream that carries it.
//!
//! Owns both descriptors as [`Endpoint`]s, registered edge-triggered, and reads nothing for one with
//! bytes in its queue. Invariant: a connection that broke on one side is reset on the other, never
//! closed in order.

use alloc::format;

use supermachine_formats::relay::{Endpoint, Socket};
use supermachine_formats::wire::{Message, Reply, Segment};

use crate::failure::failure;
use crate::link::Inbox;
use crate::server::token::Side;
use crate::sys::fd::Fd;
use crate::sys::poll::{EDGES, Epoll, EventFlags, HANG_UP, READABLE, WRITABLE};
use crate::sys::tcp;
use crate::sys::{Errno, Result, socket};

/// Pieces moved per event, before other connections get their turn.
const TURNS: u32 = 4;
/// All events of a descriptor.
pub(super) const ALL: EventFlags = READABLE.union(WRITABLE).union(HANG_UP).union(EDGES);

/// The state of a connection after some progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It waits for an event.
    Waits,
    /// It could continue, but other connections get their turn.
    Yields,
    /// Both sides have closed.
    Closed,
    /// One side broke: the other must be reset.
    Broken,
}

impl Socket for Fd {
    type Error = Errno;

    fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        unless_blocked(|| socket::receive(self, buffer))
    }

    fn send(&self, bytes: &[u8]) -> Result<Option<usize>> {
        unless_blocked(|| socket::send(self, bytes))
    }

    fn shut_down_sending(&self) -> Result<()> {
        tcp::shut_down_sending(self)
    }
}

/// Repeats a call that is interrupted. Returns `None` if it would block.
fn unless_blocked(mut call: impl FnMut() -> Result<usize>) -> Result<Option<usize>> {
    loop {
        match call() {
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            result => return result.map(Some),
        }
    }
}

/// A connection. See the module.
#[derive(Debug)]
pub(super) struct Connection {
    host: Endpoint<Fd>,
    guest: Endpoint<Fd>,
    /// If the host sends segments: the bytes of an incomplete one.
    inbox: Option<Inbox>,
    /// The port of the connection attempt.
    attempt: Option<u16>,
    /// The host has closed the stream, after both directions were closed.
    is_closed: bool,
}

impl Connection {
    /// A connection on a socket that is connected or connecting. `inbox` holds the bytes that followed
    /// the request.
    pub(super) fn new(host: Fd, guest: Fd, inbox: Inbox, framed: bool) -> Self {
        let (host, mut guest) = (Endpoint::new(host), Endpoint::new(guest));
        let inbox = if framed {
            Some(inbox)
        } else {
            guest.queue(inbox.into_rest());
            None
        };
        Self { host, guest, inbox, attempt: None, is_closed: false }
    }

    /// Its descriptors, for the event loop.
    pub(super) fn descriptors(&self) -> [(Side, &Fd); 2] {
        [(Side::Host, self.host.socket()), (Side::Guest, self.guest.socket())]
    }

    /// Makes the event loop report it again, since it can continue.
    pub(super) fn rearm(&self, epoll: &Epoll, token: u64) -> Result<()> {
        epoll.modify(self.host.socket(), ALL, token)
    }

    /// Records that the guest's side is connected, and reports it to the host.
    pub(super) fn begin(&mut self) {
        self.attempt = None;
        self.host.queue(Reply::Connected.to_frame());
        // Without it the connection is only slower.
        let _ = tcp::send_at_once(self.guest.socket());
    }

    /// Records that the connection attempt is in progress.
    pub(super) fn await_attempt(&mut self, port: u16) {
        self.attempt = Some(port);
        self.guest.await_room();
    }

    /// Records the events of a descriptor.
    pub(super) fn hear(&mut self, side: Side, events: EventFlags) {
        let [readable, writable] =
            [READABLE, WRITABLE].map(|kind| events.intersects(kind | HANG_UP));
        match side {
            Side::Host => self.host.hear(readable, writable),
            Side::Guest => self.guest.hear(readable, writable),
        }
    }

    /// Moves what can be moved.
    pub(super) fn advance(&mut self, scratch: &mut [u8]) -> Outcome {
        if let Some(port) = self.attempt
            && !self.end_attempt(port)
        {
            return Outcome::Waits;
        }
        for _ in 0..TURNS {
            let (Ok(inward), Ok(outward)) = (self.inward(scratch), self.outward(scratch)) else {
                return Outcome::Broken;
            };
            let is_drained = self.guest.has_finished && self.host.is_flushed();
            if self.host.is_broken() || self.guest.is_broken() && is_drained {
                return Outcome::Broken;
            }
            if self.is_over() {
                return Outcome::Closed;
            }
            if !inward && !outward {
                return Outcome::Waits;
            }
        }
        Outcome::Yields
    }

    /// Makes the drop of the connection reset the guest's side.
    pub(super) fn reset_guest(&self) {
        let _ = tcp::reset_on_close(self.guest.socket());
    }

    /// Checks the connection attempt. Returns `false` while it is in progress.
    fn end_attempt(&mut self, port: u16) -> bool {
        if !self.guest.is_writable() {
            return false;
        }
        match tcp::outcome(self.guest.socket()) {
            Ok(()) => self.begin(),
            Err(errno) => {
                self.attempt = None;
                self.guest.break_off();
                self.guest.has_finished = true;
                let reply = Reply::Failed(failure("connect", format!("port {port}"), errno));
                self.host.queue(reply.to_frame());
            }
        }
        true
    }

    /// Whether both sides have closed in order. With segments the host closes the stream first, so that
    /// it can distinguish a close from a broken connection.
    fn is_over(&self) -> bool {
        let ended = self.host.has_finished && self.guest.has_finished;
        let told = self.host.knows_end && self.guest.knows_end;
        ended && told && (self.inbox.is_none() || self.is_closed)
    }

    /// Moves bytes from the host to the guest. Returns whether it moved any.
    fn inward(&mut self, scratch: &mut [u8]) -> Result<bool> {
        if self.attempt.is_some() || !self.guest.flush() {
            return Ok(false);
        }
        if self.take_segments()? {
            return Ok(true);
        }
        if self.host.has_finished {
            if self.guest.tell_end().is_ok() {
                return self.hear_close(scratch);
            }
            self.guest.break_off();
            return Ok(true);
        }
        let Some(count) = self.host.receive(scratch)? else { return Ok(false) };
        let bytes = scratch.split_at(count).0;
        match &mut self.inbox {
            Some(_) if bytes.is_empty() => return Err(Errno::CONNRESET),
            Some(inbox) => inbox.push(bytes),
            None if bytes.is_empty() => self.host.has_finished = true,
            None => self.guest.send(bytes),
        }
        Ok(true)
    }

    /// Sends complete segments to the guest while it has room. Returns whether there were any.
    fn take_segments(&mut self) -> Result<bool> {
        let mut any = false;
        while let Some(inbox) = self.inbox.as_mut().filter(|_| self.guest.is_flushed()) {
            match inbox.next().map_err(|_| Errno::PROTO)? {
                Some(Segment::Data(bytes)) if !self.host.has_finished => {
                    self.guest.send(&bytes);
                    if self.guest.is_broken() {
                        return Ok(true);
                    }
                }
                Some(Segment::End) if !self.host.has_finished => self.host.has_finished = true,
                None => break,
                Some(_) => return Err(Errno::PROTO),
            }
            any = true;
        }
        Ok(any)
    }

    /// Checks whether the host has closed a stream of segments, as it may once both sides have closed.
    fn hear_close(&mut self, scratch: &mut [u8]) -> Result<bool> {
        if self.inbox.is_none() || self.is_closed {
            return Ok(false);
        }
        match self.host.receive(scratch)? {
            None => Ok(false),
            Some(0) if self.guest.has_finished => {
                self.is_closed = true;
                Ok(true)
            }
            Some(0) => Err(Errno::CONNRESET),
            Some(_) => Err(Errno::PROTO),
        }
    }

    /// Moves bytes from the guest to the host. Returns whether it moved any.
    fn outward(&mut self, scratch: &mut [u8]) -> Result<bool> {
        if !self.host.flush() || self.attempt.is_some() {
            return Ok(false);
        }
        if self.guest.has_finished {
            if !self.guest.is_broken() {
                // The close of the stream reports a host that is gone.
                let _ = self.host.tell_end();
            }
            return Ok(false);
        }
        match self.guest.receive(scratch) {
            Ok(None) if !self.guest.is_broken() => return Ok(false),
            Ok(None | Some(0)) => self.guest.has_finished = true,
            Ok(Some(count)) => self.host.send(scratch.split_at(count).0),
            Err(_) => {
                self.guest.break_off();
                self.guest.has_finished = true;
            }
        }
        Ok(true)
    }
}
