//! One TCP connection and the host's stream that it is carried on.
//!
//! Owns both descriptors and what waits in each direction: at most one piece of what was read,
//! since nothing is read while something waits. Both descriptors are watched by edges, so that
//! it remembers what may be readable or writable. Invariant: a connection that broke on one
//! side is never shown to the other as one that ended.

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

/// Pieces moved for one event, before others have their turn.
const TURNS: u32 = 4;
/// All that can happen at a descriptor.
pub(super) const ALL: u32 = READABLE | WRITABLE | HANG_UP | EDGES;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It waits for something to happen.
    Waits,
    /// It could go on at once, but it is others' turn.
    Yields,
    /// Both sides have ended.
    Ended,
    /// One side broke: the other is to be reset.
    Broke,
}

/// One of the two descriptors, with what waits to be sent to it.
#[derive(Debug)]
struct End {
    fd: Fd,
    readable: bool,
    writable: bool,
    waiting: Vec<u8>,
    sent: usize,
    /// It sends no more.
    is_done: bool,
    /// It was told that it gets no more.
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

    /// Reads what is there; none if nothing is, 0 at the end.
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

    /// Sends what there is room for, and keeps the rest.
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = if self.waiting.is_empty() { self.write(bytes)? } else { 0 };
        self.waiting.extend_from_slice(bytes.get(sent..).unwrap_or_default());
        Ok(())
    }

    /// Sends what waits. True: nothing does any more.
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

    /// Tells it that it gets no more.
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
    /// Whether the host's bytes come as segments, and those that are not whole.
    inbox: Option<Inbox>,
    /// The port that the guest's side is being connected to.
    attempt: Option<u16>,
    /// The guest's side broke; what it sent before still goes to the host.
    is_broken: bool,
    /// The host has closed the stream, after both ends.
    is_closed: bool,
}

impl Connection {
    /// A connection on a connected socket, or on one that is about to be. `inbox` holds what
    /// arrived behind the request.
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

    /// Has it be told of again by the event loop, since it may go on.
    pub(super) fn rearm(&self, epoll: &Epoll, token: u64) -> Result<()> {
        epoll.modify(&self.host.fd, ALL, token)
    }

    /// Notes that the guest's side is connected, and tells the host.
    pub(super) fn begin(&mut self) {
        self.attempt = None;
        self.host.waiting = Reply::Connected.to_frame();
        // Only slower without.
        let _ = tcp::send_at_once(&self.guest.fd);
    }

    /// Notes that the attempt to connect is under way.
    pub(super) fn await_attempt(&mut self, port: u16) {
        self.attempt = Some(port);
        self.guest.writable = false;
    }

    /// Notes what happened at a descriptor.
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

    /// Has the guest find the connection reset once it is dropped.
    pub(super) fn reset_guest(&self) {
        let _ = tcp::reset_on_close(&self.guest.fd);
    }

    /// Finds out what became of the attempt to connect. False: it goes on.
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

    /// Whether both sides have ended, and know it. With segments the host closes first, so that
    /// it can tell an end from a broken connection.
    fn is_over(&self) -> bool {
        let ended = self.host.is_done && self.guest.is_done;
        let told = self.host.is_told && self.guest.is_told;
        ended && told && (self.inbox.is_none() || self.is_closed)
    }

    /// From the host to the guest. True: something was moved.
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

    /// Sends the guest the whole segments that arrived, while it has room. True: there were some.
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

    /// Notices that the host has closed a stream of segments, which it may once both have ended.
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

    /// From the guest to the host. True: something was moved.
    fn outward(&mut self, scratch: &mut [u8]) -> Result<bool> {
        if !self.host.flush()? || self.attempt.is_some() {
            return Ok(false);
        }
        if self.guest.is_done {
            if !self.is_broken {
                // A host that is gone is noticed by its close.
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

    /// The guest takes no more; what it sent before is still there to be read.
    fn break_guest(&mut self) -> bool {
        self.is_broken = true;
        self.guest.readable = true;
        self.guest.waiting = Vec::new();
        true
    }
}
