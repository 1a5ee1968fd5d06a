//! One stream between a caller's socket and the guest.
//!
//! Owns the device's end of the socket pair, what waits in each direction, and both sides'
//! credit. Finding the connection, and what the guest is told when it is gone, belong to the
//! device.
//!
//! Invariants: no more bytes are sent to the guest than its credit allows; no more than
//! [`BUFFER`] bytes wait for the host; all counters wrap as the protocol's do.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use supermachine_formats::snapshot::device as formats;

use super::device::Lane;
use super::packet::{
    HOST_CID, Header, MAX_PAYLOAD, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RW, OP_SHUTDOWN,
    SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM,
};
use crate::devices::virtio::queue::{Broken, Queues};

/// Bytes from the guest that may wait for the host to read; the credit that the guest has.
pub(super) const BUFFER: u32 = 256 << 10;
/// Consumed bytes that are worth telling the guest.
const UPDATE_AFTER: u32 = BUFFER / 2;
/// What a peer is taken to have room for before it has said so.
const FIRST_CREDIT: u32 = 64 << 10;
/// Bytes discarded at once when a stream ends.
const DISCARD: usize = 4096;
/// Discards that empty any socket's buffer.
const MAX_DISCARDS: usize = 256;

/// What tells connections apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
}

impl Key {
    /// Both ports in one word.
    pub(super) fn pack(self) -> u64 {
        u64::from(self.host_port) << 32 | u64::from(self.guest_port)
    }

    /// The ports that were packed.
    pub(super) fn unpack(word: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
        Self {
            host_port: u32::from_le_bytes([e, f, g, h]),
            guest_port: u32::from_le_bytes([a, b, c, d]),
        }
    }
}

/// How far a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// All that can be sent now is sent.
    Idle,
    /// The guest has no buffers left.
    Blocked,
}

/// What the guest must be told, besides data.
#[derive(Debug, Default)]
struct Due {
    request: bool,
    response: bool,
    credit: bool,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: Key,
    /// The device's end; none when the host has closed its own.
    pub(super) stream: Option<UnixStream>,
    /// The guest has not answered the request yet.
    requested: bool,
    due: Due,
    /// Bytes for the guest, from `inbox_start` on.
    inbox: Vec<u8>,
    inbox_start: usize,
    /// Bytes for the host.
    outbox: VecDeque<u8>,
    /// The stream may have something to read.
    pub(super) readable: bool,
    /// The host sends no more.
    host_done: bool,
    /// The host has closed its end.
    pub(super) host_gone: bool,
    /// What the guest was told to be shut down, and what it told.
    told_shutdown: u32,
    guest_shutdown: u32,
    /// The guest knows the connection no more; what is in `outbox` still goes to the host.
    pub(super) parted: bool,
    peer_buffer: u32,
    peer_consumed: u32,
    sent: u32,
    passed: u32,
    told_passed: u32,
    /// Whether the watch knows the stream, and whether it looks for room.
    pub(super) watched: bool,
    pub(super) watched_for_room: bool,
    /// Whether it stands in the device's list of blocked connections.
    pub(super) queued: bool,
}

impl Connection {
    /// One that the host makes.
    pub(super) fn requested(key: Key, stream: UnixStream) -> Self {
        let mut connection = Self::open(key, stream);
        connection.requested = true;
        connection.due.request = true;
        connection.peer_buffer = FIRST_CREDIT;
        connection
    }

    /// One that the guest made.
    pub(super) fn accepted(key: Key, stream: UnixStream) -> Self {
        let mut connection = Self::open(key, stream);
        connection.due.response = true;
        connection
    }

    /// One that was open when a snapshot was taken.
    pub(super) fn restored(state: &formats::VsockConnection, stream: UnixStream) -> Self {
        let key = Key { host_port: state.host_port, guest_port: state.guest_port };
        let mut connection = Self::open(key, stream);
        connection.peer_buffer = state.peer_buffer;
        connection.peer_consumed = state.peer_consumed;
        connection.sent = state.sent;
        connection.passed = state.consumed;
        connection.told_passed = state.consumed;
        connection
    }

    fn open(key: Key, stream: UnixStream) -> Self {
        Self {
            key,
            stream: Some(stream),
            requested: false,
            due: Due::default(),
            inbox: Vec::new(),
            inbox_start: 0,
            outbox: VecDeque::new(),
            readable: false,
            host_done: false,
            host_gone: false,
            told_shutdown: 0,
            guest_shutdown: 0,
            parted: false,
            peer_buffer: 0,
            peer_consumed: 0,
            sent: 0,
            passed: 0,
            told_passed: 0,
            watched: false,
            watched_for_room: false,
            queued: false,
        }
    }

    /// Takes the guest's answer to the request; false if it was not asked.
    pub(super) fn respond(&mut self) -> bool {
        let expected = self.requested && !self.due.request;
        self.requested = false;
        expected
    }

    /// Notes the guest's credit, which every packet tells.
    pub(super) fn hear_credit(&mut self, header: &Header) {
        self.peer_buffer = header.buffer;
        self.peer_consumed = header.consumed;
    }

    /// Will tell the guest the host's credit.
    pub(super) fn ask_credit(&mut self) {
        self.due.credit = true;
    }

    /// Passes the guest's bytes on to the host; false if the guest must not send them or the
    /// host does not take them.
    pub(super) fn deliver(&mut self, bytes: &[u8]) -> bool {
        let shut = self.guest_shutdown & SHUTDOWN_SEND != 0;
        let fits = self.outbox.len().saturating_add(bytes.len()) <= BUFFER as usize;
        if self.requested || shut || !fits {
            return false;
        }
        let mut rest = bytes;
        if self.outbox.is_empty() {
            let Some(stream) = &self.stream else { return false };
            let Ok(written) = write(stream, rest) else { return false };
            self.count_passed(written);
            rest = rest.get(written..).unwrap_or_default();
        }
        self.outbox.extend(rest);
        true
    }

    /// Writes what waits for the host; false if the host does not take it.
    pub(super) fn flush(&mut self) -> bool {
        while !self.outbox.is_empty() {
            let Some(stream) = &self.stream else { return false };
            let Ok(written) = write(stream, self.outbox.as_slices().0) else { return false };
            if written == 0 {
                return true;
            }
            self.outbox.drain(..written);
            self.count_passed(written);
        }
        self.outbox.shrink_to(0);
        self.end_output();
        true
    }

    /// Whether bytes wait for the host.
    pub(super) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Takes the guest's word that it sends or receives no more. True if that ends it all.
    pub(super) fn shut_down(&mut self, flags: u32) -> bool {
        self.guest_shutdown |= flags & SHUTDOWN_BOTH;
        if self.guest_shutdown == SHUTDOWN_BOTH {
            return true;
        }
        if self.guest_shutdown & SHUTDOWN_RECEIVE != 0 {
            self.inbox.clear();
            self.inbox_start = 0;
            // A stream that is not connected any more has nothing to shut down.
            let _ = self.stream.as_ref().map(|stream| stream.shutdown(Shutdown::Read));
        }
        self.end_output();
        false
    }

    /// The guest knows it no more. True if nothing waits for the host either.
    pub(super) fn part(&mut self) -> bool {
        self.parted = true;
        self.inbox = Vec::new();
        self.inbox_start = 0;
        self.outbox.is_empty() || self.stream.is_none()
    }

    /// Whether the host has closed it and only the guest's last word is missing.
    pub(super) fn is_closing(&self) -> bool {
        self.host_gone || self.told_shutdown == SHUTDOWN_BOTH
    }

    /// Whether the state tells all there is of it.
    pub(super) fn is_quiet(&self) -> bool {
        let idle = self.inbox.is_empty() && self.outbox.is_empty();
        let Due { request, response, credit } = self.due;
        let owed = request || response || credit || self.owes_update();
        idle && !owed && !self.parted && !self.requested
    }

    /// Whether the guest knows it, and does not know it to be at its end.
    pub(super) fn must_be_reset(&self) -> bool {
        !self.parted && !self.due.request && self.told_shutdown != SHUTDOWN_BOTH
    }

    /// Whether the guest must hear how much was consumed, lest it wait for room that there is.
    fn owes_update(&self) -> bool {
        self.passed.wrapping_sub(self.told_passed) >= UPDATE_AFTER
    }

    /// What goes into a snapshot, if that tells all there is of it.
    pub(super) fn state(&self) -> Option<formats::VsockConnection> {
        self.is_quiet().then_some(formats::VsockConnection {
            host_port: self.key.host_port,
            guest_port: self.key.guest_port,
            peer_buffer: self.peer_buffer,
            peer_consumed: self.peer_consumed,
            sent: self.sent,
            consumed: self.passed,
        })
    }

    /// Sends bytes of the host, or keeps what the guest cannot take now.
    pub(super) fn offer(
        &mut self,
        bytes: &[u8],
        lane: &mut Lane,
        queues: &mut Queues,
    ) -> Result<Progress, Broken> {
        let first = self.pump(lane, queues)?;
        let sent = match first {
            Progress::Idle if self.inbox.is_empty() => self.send_data(bytes, lane, queues)?,
            Progress::Idle | Progress::Blocked => 0,
        };
        let rest = bytes.get(sent..).unwrap_or_default();
        self.inbox.extend_from_slice(rest);
        let blocked = first == Progress::Blocked || (!rest.is_empty() && self.credit() > 0);
        Ok(if blocked { Progress::Blocked } else { Progress::Idle })
    }

    /// Sends the guest what it must be told and what the host wrote, as far as it can take it.
    pub(super) fn pump(
        &mut self,
        lane: &mut Lane,
        queues: &mut Queues,
    ) -> Result<Progress, Broken> {
        if self.parted {
            return Ok(Progress::Idle);
        }
        if self.due.request {
            if !self.tell(OP_REQUEST, 0, lane, queues)? {
                return Ok(Progress::Blocked);
            }
            self.due.request = false;
        }
        if self.due.response {
            if !self.tell(OP_RESPONSE, 0, lane, queues)? {
                return Ok(Progress::Blocked);
            }
            self.due.response = false;
        }
        if self.pump_data(lane, queues)? == Progress::Blocked {
            return Ok(Progress::Blocked);
        }
        let flags = match (self.host_gone, self.host_done) {
            (_, false) => 0,
            (false, true) => SHUTDOWN_SEND,
            (true, true) => SHUTDOWN_BOTH,
        };
        if self.inbox.is_empty() && flags & !self.told_shutdown != 0 {
            if !self.tell(OP_SHUTDOWN, flags, lane, queues)? {
                return Ok(Progress::Blocked);
            }
            self.told_shutdown = flags;
            if flags == SHUTDOWN_BOTH {
                self.stream = None;
                self.outbox = VecDeque::new();
            }
        }
        if self.due.credit || self.owes_update() {
            if !self.tell(OP_CREDIT_UPDATE, 0, lane, queues)? {
                return Ok(Progress::Blocked);
            }
            self.due.credit = false;
        }
        Ok(Progress::Idle)
    }

    fn pump_data(&mut self, lane: &mut Lane, queues: &mut Queues) -> Result<Progress, Broken> {
        loop {
            if !self.inbox.is_empty() {
                if !self.drain_inbox(lane, queues)? {
                    return Ok(Progress::Blocked);
                }
                if !self.inbox.is_empty() {
                    return Ok(Progress::Idle);
                }
            }
            let shut = self.host_done || self.guest_shutdown & SHUTDOWN_RECEIVE != 0;
            let room = usize::try_from(self.credit()).unwrap_or(usize::MAX).min(MAX_PAYLOAD);
            if !self.readable || self.requested || shut || room == 0 {
                return Ok(Progress::Idle);
            }
            if !lane.is_open(queues) {
                return Ok(Progress::Blocked);
            }
            let Some(stream) = &self.stream else { return Ok(Progress::Idle) };
            let mut buffer = lane.take_buffer();
            let read = read(stream, buffer.get_mut(..room).unwrap_or_default());
            let result = match read {
                Ok(Some(0)) => {
                    self.host_done = true;
                    Ok(())
                }
                Ok(Some(count)) => {
                    let bytes = buffer.get(..count).unwrap_or_default();
                    self.send_data(bytes, lane, queues).map(|sent| {
                        self.inbox.extend_from_slice(bytes.get(sent..).unwrap_or_default());
                    })
                }
                Ok(None) => {
                    self.readable = false;
                    Ok(())
                }
                Err(_) => {
                    self.host_done = true;
                    self.host_gone = true;
                    Ok(())
                }
            };
            lane.return_buffer(buffer);
            result?;
        }
    }

    /// Sends from the inbox; false if the guest has no buffers left.
    fn drain_inbox(&mut self, lane: &mut Lane, queues: &mut Queues) -> Result<bool, Broken> {
        let inbox = std::mem::take(&mut self.inbox);
        let bytes = inbox.get(self.inbox_start..).unwrap_or_default();
        let sent = self.send_data(bytes, lane, queues)?;
        let finished = sent == bytes.len();
        if finished {
            self.inbox_start = 0;
        } else {
            self.inbox_start += sent;
            self.inbox = inbox;
        }
        Ok(finished || self.credit() == 0)
    }

    /// Sends as much data as the guest has credit and buffers for; gives how much that was.
    fn send_data(
        &mut self,
        bytes: &[u8],
        lane: &mut Lane,
        queues: &mut Queues,
    ) -> Result<usize, Broken> {
        let mut done = 0;
        while done < bytes.len() {
            let credit = usize::try_from(self.credit()).unwrap_or(usize::MAX);
            let limit = (bytes.len() - done).min(credit).min(MAX_PAYLOAD);
            let piece = bytes.get(done..done + limit).unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            let Some(count) = lane.send(queues, self.header(OP_RW, 0), piece)? else { break };
            self.told_passed = self.passed;
            self.sent = self.sent.wrapping_add(u32::try_from(count).map_err(|_| Broken)?);
            done += count;
        }
        Ok(done)
    }

    /// Sends a packet without data; false if the guest has no buffers left.
    fn tell(
        &mut self,
        operation: u16,
        flags: u32,
        lane: &mut Lane,
        queues: &mut Queues,
    ) -> Result<bool, Broken> {
        let sent = lane.send(queues, self.header(operation, flags), &[])?.is_some();
        if sent {
            self.told_passed = self.passed;
        }
        Ok(sent)
    }

    fn header(&self, operation: u16, flags: u32) -> Header {
        Header {
            source_cid: HOST_CID,
            destination_cid: 0,
            source_port: self.key.host_port,
            destination_port: self.key.guest_port,
            length: 0,
            kind: TYPE_STREAM,
            operation,
            flags,
            buffer: BUFFER,
            consumed: self.passed,
        }
    }

    /// Bytes that the guest has room for.
    fn credit(&self) -> u32 {
        self.peer_buffer.saturating_sub(self.sent.wrapping_sub(self.peer_consumed))
    }

    fn count_passed(&mut self, count: usize) {
        // Never more than a buffer at a time.
        self.passed = self.passed.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Ends the host's input once the guest sends no more and all is passed on.
    fn end_output(&mut self) {
        if self.guest_shutdown & SHUTDOWN_SEND != 0 && self.outbox.is_empty() {
            // A stream that is not connected any more has nothing to shut down.
            let _ = self.stream.as_ref().map(|stream| stream.shutdown(Shutdown::Write));
        }
    }
}

impl Drop for Connection {
    /// Ends the stream, rather than only our hold on it: a process that was forked off may have
    /// another, and the host would wait for the end until that one is gone. Then discards what
    /// the host wrote and nobody reads: closing with it in the buffer would give the host an error
    /// in place of the stream's end.
    fn drop(&mut self) {
        if let (Some(stream), false) = (&self.stream, self.host_gone) {
            // A stream that is not connected any more has nothing to shut down.
            let _ = stream.shutdown(Shutdown::Both);
            let mut sink = [0; DISCARD];
            for _ in 0..MAX_DISCARDS {
                if !matches!(read(stream, &mut sink), Ok(Some(1..))) {
                    break;
                }
            }
        }
    }
}

/// Writes what the socket takes now.
fn write(mut stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest @ [_, ..]) = bytes.get(done..) {
        match stream.write(rest) {
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Reads what the socket has now; none if nothing.
fn read(mut stream: &UnixStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match stream.read(buffer) {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
