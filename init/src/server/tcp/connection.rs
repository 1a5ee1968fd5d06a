//! One TCP connection and the host's stream that carries it.
//!
//! Owns both descriptors and at most one queued piece per direction: it does not read while a piece
//! is queued. Both descriptors are registered edge-triggered, so it remembers their readiness.
//! Invariant: a connection that broke on one side is reset on the other, never closed in order.

use alloc::format;
use alloc::vec::Vec;

use supermachine_formats::wire::{Message, Reply, Segment};

use crate::failure::failure;
use crate::link::Inbox;
use crate::server::token::Side;
use crate::sys::fd::Fd;
use crate::sys::poll::{EDGES, Epoll, HANG_UP, READABLE, WRITABLE};
use crate::sys::tcp;
use crate::sys::{Errno, Result, socket};

/// Pieces moved per event, before other connections get their turn.
const TURNS: u32 = 4;
/// All events of a descriptor.
pub(super) const ALL: u32 = READABLE | WRITABLE | HANG_UP | EDGES;

/// The state of a connection after some progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It waits for an event.
    Waits,
    /// It could continue, but other connections get their turn.
    Yields,
    /// Both sides have closed.
    Ended,
    /// One side broke: the other must be reset.
    Broke,
}

/// One of the two descriptors, with the bytes queued for it.
#[derive(Debug)]
struct End {
    fd: Fd,
    readable: bool,
    writable: bool,
    waiting: Vec<u8>,
    sent: usize,
    /// It has closed its sending direction.
    is_done: bool,
    /// The agent has closed the direction to it.
    is_told: bool,
}

impl End {
    fn new(fd: Fd) -> Self {
        Self {
            fd,
            readable: true,
            writable: true,
            waiting: Vec::new(),
            sent: 0,
            is_done: false,
            is_told: false,
        }
    }

    fn hear(&mut self, events: u32) {
        self.readable |= events & (READABLE | HANG_UP) != 0;
        self.writable |= events & (WRITABLE | HANG_UP) != 0;
    }

    /// Reads without blocking. Returns `None` if there is no data, 0 at the end.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        while self.readable {
            match socket::receive(&self.fd, buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(Errno::EAGAIN) => self.readable = false,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(None)
    }

    /// Sends as much as fits, and queues the rest.
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = if self.waiting.is_empty() { self.write(bytes)? } else { 0 };
        self.waiting.extend_from_slice(bytes.get(sent..).unwrap_or_default());
        Ok(())
    }

    /// Sends queued bytes. Returns `true` once the queue is empty.
    fn flush(&mut self) -> Result<bool> {
        if self.waiting.is_empty() {
            return Ok(true);
        }
        let waiting = core::mem::take(&mut self.waiting);
        self.sent += self.write(waiting.get(self.sent..).unwrap_or_default())?;
        if self.sent < waiting.len() {
            self.waiting = waiting;
            return Ok(false);
        }
        self.sent = 0;
        Ok(true)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty() && self.writable) {
            match socket::send(&self.fd, rest) {
                Ok(count) => sent += count,
                Err(Errno::EAGAIN) => self.writable = false,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(sent)
    }

    /// Closes the direction to it.
    fn tell_end(&mut self) -> Result<()> {
        if !self.is_told {
            self.is_told = true;
            tcp::shut_down_sending(&self.fd)?;
        }
        Ok(())
    }
}

/// A connection. See the module.
#[derive(Debug)]
pub(super) struct Connection {
    host: End,
    guest: End,
    /// If the host sends segments: the bytes of an incomplete one.
    inbox: Option<Inbox>,
    /// The port of the connection attempt.
    attempt: Option<u16>,
    /// The guest's side broke; its earlier bytes still go to the host.
    is_broken: bool,
    /// The host has closed the stream, after both directions were closed.
    is_closed: bool,
}

impl Connection {
    /// A connection on a socket that is connected or connecting. `inbox` holds the bytes that followed
    /// the request.
    pub(super) fn new(host: Fd, guest: Fd, inbox: Inbox, framed: bool) -> Self {
        let (host, mut guest) = (End::new(host), End::new(guest));
        let inbox = if framed {
            Some(inbox)
        } else {
            guest.waiting = inbox.into_rest();
            None
        };
        Self { host, guest, inbox, attempt: None, is_broken: false, is_closed: false }
    }

    /// Its descriptors, for the event loop.
    pub(super) fn descriptors(&self) -> [(Side, &Fd); 2] {
        [(Side::Host, &self.host.fd), (Side::Guest, &self.guest.fd)]
    }

    /// Makes the event loop report it again, since it can continue.
    pub(super) fn rearm(&self, epoll: &Epoll, token: u64) -> Result<()> {
        epoll.modify(&self.host.fd, ALL, token)
    }

    /// Records that the guest's side is connected, and reports it to the host.
    pub(super) fn begin(&mut self) {
        self.attempt = None;
        self.host.waiting = Reply::Connected.to_frame();
        // Without it the connection is only slower.
        let _ = tcp::send_at_once(&self.guest.fd);
    }

    /// Records that the connection attempt is in progress.
    pub(super) fn await_attempt(&mut self, port: u16) {
        self.attempt = Some(port);
        self.guest.writable = false;
    }

    /// Records the events of a descriptor.
    pub(super) fn hear(&mut self, side: Side, events: u32) {
        match side {
            Side::Host => self.host.hear(events),
            Side::Guest => self.guest.hear(events),
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
                return Outcome::Broke;
            };
            if self.is_broken && self.guest.is_done && self.host.waiting.is_empty() {
                return Outcome::Broke;
            }
            if self.is_over() {
                return Outcome::Ended;
            }
            if !inward && !outward {
                return Outcome::Waits;
            }
        }
        Outcome::Yields
    }

    /// Makes the drop of the connection reset the guest's side.
    pub(super) fn reset_guest(&self) {
        let _ = tcp::reset_on_close(&self.guest.fd);
    }

    /// Checks the connection attempt. Returns `false` while it is in progress.
    fn end_attempt(&mut self, port: u16) -> bool {
        if !self.guest.writable {
            return false;
        }
        match tcp::outcome(&self.guest.fd) {
            Ok(()) => self.begin(),
            Err(errno) => {
                self.attempt = None;
                self.is_broken = true;
                self.guest.is_done = true;
                let reply = Reply::Failed(failure("connect", format!("port {port}"), errno));
                self.host.waiting = reply.to_frame();
            }
        }
        true
    }

    /// Whether both sides have closed in order. With segments the host closes the stream first, so that
    /// it can distinguish a close from a broken connection.
    fn is_over(&self) -> bool {
        let ended = self.host.is_done && self.guest.is_done;
        let told = self.host.is_told && self.guest.is_told;
        ended && told && (self.inbox.is_none() || self.is_closed)
    }

    /// Moves bytes from the host to the guest. Returns whether it moved any.
    fn inward(&mut self, scratch: &mut [u8]) -> Result<bool> {
        if self.is_broken || self.attempt.is_some() {
            return Ok(false);
        }
        match self.guest.flush() {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(_) => return Ok(self.break_guest()),
        }
        if self.take_segments()? {
            return Ok(true);
        }
        if self.host.is_done {
            return if self.guest.tell_end().is_err() {
                Ok(self.break_guest())
            } else {
                self.hear_close(scratch)
            };
        }
        let Some(count) = self.host.receive(scratch)? else { return Ok(false) };
        let bytes = scratch.get(..count).unwrap_or_default();
        match &mut self.inbox {
            Some(_) if bytes.is_empty() => return Err(Errno::ECONNRESET),
            Some(inbox) => inbox.push(bytes),
            None if bytes.is_empty() => self.host.is_done = true,
            None if self.guest.send(bytes).is_err() => return Ok(self.break_guest()),
            None => {}
        }
        Ok(true)
    }

    /// Sends complete segments to the guest while it has room. Returns whether there were any.
    fn take_segments(&mut self) -> Result<bool> {
        let mut any = false;
        while let Some(inbox) = self.inbox.as_mut().filter(|_| self.guest.waiting.is_empty()) {
            match inbox.next().map_err(|_| Errno::EPROTO)? {
                Some(Segment::Data(bytes)) if !self.host.is_done => {
                    if self.guest.send(&bytes).is_err() {
                        return Ok(self.break_guest());
                    }
                }
                Some(Segment::End) if !self.host.is_done => self.host.is_done = true,
                None => break,
                Some(_) => return Err(Errno::EPROTO),
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
            Some(0) if self.guest.is_done => {
                self.is_closed = true;
                Ok(true)
            }
            Some(0) => Err(Errno::ECONNRESET),
            Some(_) => Err(Errno::EPROTO),
        }
    }

    /// Moves bytes from the guest to the host. Returns whether it moved any.
    fn outward(&mut self, scratch: &mut [u8]) -> Result<bool> {
        if !self.host.flush()? || self.attempt.is_some() {
            return Ok(false);
        }
        if self.guest.is_done {
            if !self.is_broken {
                // The close of the stream reports a host that is gone.
                let _ = self.host.tell_end();
            }
            return Ok(false);
        }
        match self.guest.receive(scratch) {
            Ok(None) if !self.is_broken => return Ok(false),
            Ok(None | Some(0)) => self.guest.is_done = true,
            Ok(Some(count)) => self.host.send(scratch.get(..count).unwrap_or_default())?,
            Err(_) => {
                self.break_guest();
                self.guest.is_done = true;
            }
        }
        Ok(true)
    }

    /// Records that the guest takes no more. Its earlier bytes can still be read.
    fn break_guest(&mut self) -> bool {
        self.is_broken = true;
        self.guest.readable = true;
        self.guest.waiting = Vec::new();
        true
    }
}
