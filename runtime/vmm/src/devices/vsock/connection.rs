//! One stream between a caller's socket and the guest.
//!
//! Owns the device's end of the socket pair, the bytes that wait in each direction, and both sides'
//! credit. The device finds connections, and answers for those that are gone.
//!
//! Invariants: the guest never gets more bytes than its credit allows; no more than [`BUFFER`]
//! bytes wait for the host; all counters wrap as the protocol's do.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use supermachine_formats::snapshot::device as formats;

use super::packet::{
    HOST_CID, Header, MAX_PAYLOAD, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RW, OP_SHUTDOWN,
    SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM,
};
use super::receive::Receiver;
use crate::devices::event_loop::{DeviceEvents, Source};
use crate::devices::queue::{QueueViolation, Queues};
use crate::os::Interest;

/// Bytes from the guest that may wait for the host to read; the credit that the guest has.
pub(super) const BUFFER: u32 = 256 << 10;
/// Consumed bytes that are worth a credit update.
const UPDATE_AFTER: u32 = BUFFER / 2;
/// The assumed credit of a peer before its first packet.
const FIRST_CREDIT: u32 = 64 << 10;
/// Bytes discarded at once when a stream ends.
const DISCARD: usize = 4096;
/// Discards that empty any socket's buffer.
const MAX_DISCARDS: usize = 256;

/// Identifies a connection.
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

/// How far the guest knows a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The host connects, and the request is not sent yet.
    RequestDue,
    /// The guest has the request and has not answered it.
    Requested,
    /// The guest connects, and the response is not sent yet.
    ResponseDue,
    /// Both sides know it.
    Open,
    /// The guest knows it no more. The host still gets the bytes that wait for it.
    Forgotten,
}

/// Input from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    /// A read found none.
    Empty,
    /// A read may find some.
    Ready,
    /// The host sends no more.
    Ended,
}

/// What the event loop watches a stream for.
#[derive(Debug)]
enum Watch {
    Nothing,
    Input(Source),
    InputAndRoom(Source),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: Key,
    phase: Phase,
    /// The device's end; `None` once the host has closed its own and the guest knows.
    stream: Option<UnixStream>,
    watch: Watch,
    input: Input,
    /// The host has closed its end.
    host_gone: bool,
    /// Bytes for the guest, from `inbox_start` on.
    inbox: Vec<u8>,
    inbox_start: usize,
    /// Bytes for the host.
    outbox: VecDeque<u8>,
    /// The directions that the host's side has shut down, as the guest knows.
    sent_shutdown: u32,
    /// The directions that the guest has shut down.
    guest_shutdown: u32,
    /// The guest has asked for the host's credit.
    credit_due: bool,
    peer_buffer: u32,
    peer_consumed: u32,
    sent: u32,
    /// Bytes of the guest that the host has, and how many of them the guest knows of.
    consumed: u32,
    sent_consumed: u32,
    /// Whether it is in the device's list of blocked connections.
    pub(super) is_blocked: bool,
}

impl Connection {
    /// A connection that the host makes.
    pub(super) fn requested(key: Key, stream: UnixStream) -> Self {
        let mut connection = Self::new(key, Phase::RequestDue, stream);
        connection.peer_buffer = FIRST_CREDIT;
        connection
    }

    /// A connection that the guest made.
    pub(super) fn accepted(key: Key, stream: UnixStream) -> Self {
        Self::new(key, Phase::ResponseDue, stream)
    }

    /// A connection that was open when a snapshot was taken.
    pub(super) fn restored(state: &formats::VsockConnection, stream: UnixStream) -> Self {
        let key = Key { host_port: state.host_port, guest_port: state.guest_port };
        let mut connection = Self::new(key, Phase::Open, stream);
        connection.peer_buffer = state.peer_buffer;
        connection.peer_consumed = state.peer_consumed;
        connection.sent = state.sent;
        connection.consumed = state.consumed;
        connection.sent_consumed = state.consumed;
        connection
    }

    fn new(key: Key, phase: Phase, stream: UnixStream) -> Self {
        Self {
            key,
            phase,
            stream: Some(stream),
            watch: Watch::Nothing,
            input: Input::Empty,
            host_gone: false,
            inbox: Vec::new(),
            inbox_start: 0,
            outbox: VecDeque::new(),
            sent_shutdown: 0,
            guest_shutdown: 0,
            credit_due: false,
            peer_buffer: 0,
            peer_consumed: 0,
            sent: 0,
            consumed: 0,
            sent_consumed: 0,
            is_blocked: false,
        }
    }

    /// Has the event loop watch the stream for input.
    pub(super) fn watch_input(&mut self, events: &DeviceEvents) -> io::Result<()> {
        if let (Watch::Nothing, Some(stream)) = (&self.watch, &self.stream) {
            self.watch = Watch::Input(events.register(stream, self.key.pack(), Interest::Input)?);
        }
        Ok(())
    }

    /// Has the event loop watch the stream for room as well.
    pub(super) fn watch_room(&mut self, events: &DeviceEvents) -> io::Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        let interest = Interest::InputAndRoom;
        let source = match std::mem::replace(&mut self.watch, Watch::Nothing) {
            Watch::InputAndRoom(source) => source,
            Watch::Input(source) => {
                source.set_interest(stream, interest)?;
                source
            }
            Watch::Nothing => events.register(stream, self.key.pack(), interest)?,
        };
        self.watch = Watch::InputAndRoom(source);
        Ok(())
    }

    /// Notes that the stream may have input, and whether the host has closed its end.
    pub(super) fn note_input(&mut self, hung_up: bool) {
        if self.input == Input::Empty {
            self.input = Input::Ready;
        }
        self.host_gone |= hung_up;
    }

    /// Takes the guest's answer to the request. Returns `false` if there was no request.
    pub(super) fn respond(&mut self) -> bool {
        let expected = self.phase == Phase::Requested;
        if expected {
            self.phase = Phase::Open;
        }
        expected
    }

    /// Takes the guest's credit, which every packet carries.
    pub(super) fn take_credit(&mut self, header: &Header) {
        self.peer_buffer = header.buffer;
        self.peer_consumed = header.consumed;
    }

    /// Schedules an update of the host's credit.
    pub(super) fn ask_credit(&mut self) {
        self.credit_due = true;
    }

    /// Passes the guest's bytes on to the host. Returns `false` if the guest must not send them or
    /// the host does not take them.
    pub(super) fn deliver(&mut self, bytes: &[u8]) -> bool {
        let shut = self.guest_shutdown & SHUTDOWN_SEND != 0;
        let fits = self.outbox.len().saturating_add(bytes.len()) <= BUFFER as usize;
        if self.awaits_answer() || shut || !fits {
            return false;
        }
        let mut rest = bytes;
        if self.outbox.is_empty() {
            let Some(stream) = &self.stream else { return false };
            let Ok(written) = write(stream, rest) else { return false };
            self.count_consumed(written);
            rest = rest.split_at(written).1;
        }
        self.outbox.extend(rest);
        true
    }

    /// Writes the bytes that wait for the host. Returns `false` if the host does not take them.
    pub(super) fn flush(&mut self) -> bool {
        while !self.outbox.is_empty() {
            let Some(stream) = &self.stream else { return false };
            let Ok(written) = write(stream, self.outbox.as_slices().0) else { return false };
            if written == 0 {
                return true;
            }
            self.outbox.drain(..written);
            self.count_consumed(written);
        }
        self.outbox.shrink_to(0);
        self.end_output();
        true
    }

    /// Whether bytes wait for the host.
    pub(super) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Notes the directions that the guest shuts down. Returns whether both are shut down now.
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

    /// Notes that the guest knows the connection no more. Returns whether nothing waits for the
    /// host either.
    pub(super) fn forget(&mut self) -> bool {
        self.phase = Phase::Forgotten;
        self.inbox = Vec::new();
        self.inbox_start = 0;
        self.outbox.is_empty() || self.stream.is_none()
    }

    /// Whether the guest knows the connection no more.
    pub(super) fn is_forgotten(&self) -> bool {
        self.phase == Phase::Forgotten
    }

    /// Whether the guest has not answered the host's request yet.
    fn awaits_answer(&self) -> bool {
        matches!(self.phase, Phase::RequestDue | Phase::Requested)
    }

    /// Whether the host has closed its end and the guest has yet to close its own.
    pub(super) fn is_closing(&self) -> bool {
        self.host_gone || self.sent_shutdown == SHUTDOWN_BOTH
    }

    /// Whether the state holds everything that is in flight.
    pub(super) fn is_quiet(&self) -> bool {
        let idle = self.inbox.is_empty() && self.outbox.is_empty();
        idle && self.phase == Phase::Open && !self.credit_due && !self.owes_update()
    }

    /// Whether the guest knows the connection, and does not know that it is closed.
    pub(super) fn must_be_reset(&self) -> bool {
        let is_known = !matches!(self.phase, Phase::RequestDue | Phase::Forgotten);
        is_known && self.sent_shutdown != SHUTDOWN_BOTH
    }

    /// Whether the guest must learn how much was consumed, or it would wait for room in vain.
    fn owes_update(&self) -> bool {
        self.consumed.wrapping_sub(self.sent_consumed) >= UPDATE_AFTER
    }

    /// The state that goes into a snapshot; `None` while it would miss something in flight.
    pub(super) fn state(&self) -> Option<formats::VsockConnection> {
        self.is_quiet().then_some(formats::VsockConnection {
            host_port: self.key.host_port,
            guest_port: self.key.guest_port,
            peer_buffer: self.peer_buffer,
            peer_consumed: self.peer_consumed,
            sent: self.sent,
            consumed: self.consumed,
        })
    }

    /// Sends the host's bytes, and keeps those that the guest cannot take now.
    pub(super) fn offer(
        &mut self,
        bytes: &[u8],
        receiver: &mut Receiver,
        queues: &mut Queues,
    ) -> Result<Progress, QueueViolation> {
        let first = self.pump(receiver, queues)?;
        let sent = match first {
            Progress::Idle if self.inbox.is_empty() => self.send_data(bytes, receiver, queues)?,
            Progress::Idle | Progress::Blocked => 0,
        };
        let rest = bytes.split_at(sent).1;
        self.inbox.extend_from_slice(rest);
        let blocked = first == Progress::Blocked || (!rest.is_empty() && self.credit() > 0);
        Ok(if blocked { Progress::Blocked } else { Progress::Idle })
    }

    /// Sends the guest what is due and what the host wrote, as far as the guest can take it.
    pub(super) fn pump(
        &mut self,
        receiver: &mut Receiver,
        queues: &mut Queues,
    ) -> Result<Progress, QueueViolation> {
        let (due, next) = match self.phase {
            Phase::Forgotten => return Ok(Progress::Idle),
            Phase::RequestDue => (Some(OP_REQUEST), Phase::Requested),
            Phase::ResponseDue => (Some(OP_RESPONSE), Phase::Open),
            phase => (None, phase),
        };
        if let Some(operation) = due
            && !self.send_bare(operation, 0, receiver, queues)?
        {
            return Ok(Progress::Blocked);
        }
        self.phase = next;
        if self.pump_data(receiver, queues)? == Progress::Blocked {
            return Ok(Progress::Blocked);
        }
        let flags = match (self.host_gone, self.input == Input::Ended) {
            (_, false) => 0,
            (false, true) => SHUTDOWN_SEND,
            (true, true) => SHUTDOWN_BOTH,
        };
        if self.inbox.is_empty() && flags & !self.sent_shutdown != 0 {
            if !self.send_bare(OP_SHUTDOWN, flags, receiver, queues)? {
                return Ok(Progress::Blocked);
            }
            self.sent_shutdown = flags;
            if flags == SHUTDOWN_BOTH {
                self.stream = None;
                self.outbox = VecDeque::new();
            }
        }
        if self.credit_due || self.owes_update() {
            if !self.send_bare(OP_CREDIT_UPDATE, 0, receiver, queues)? {
                return Ok(Progress::Blocked);
            }
            self.credit_due = false;
        }
        Ok(Progress::Idle)
    }

    fn pump_data(
        &mut self,
        receiver: &mut Receiver,
        queues: &mut Queues,
    ) -> Result<Progress, QueueViolation> {
        loop {
            if !self.inbox.is_empty() {
                if !self.drain_inbox(receiver, queues)? {
                    return Ok(Progress::Blocked);
                }
                if !self.inbox.is_empty() {
                    return Ok(Progress::Idle);
                }
            }
            let shut = self.guest_shutdown & SHUTDOWN_RECEIVE != 0;
            let room = usize::try_from(self.credit()).unwrap_or(usize::MAX).min(MAX_PAYLOAD);
            if self.input != Input::Ready || self.awaits_answer() || shut || room == 0 {
                return Ok(Progress::Idle);
            }
            if !receiver.has_buffer(queues) {
                return Ok(Progress::Blocked);
            }
            let Some(stream) = &self.stream else { return Ok(Progress::Idle) };
            let mut buffer = receiver.take_buffer();
            let read = read(stream, buffer.get_mut(..room).unwrap_or_default());
            let result = match read {
                Ok(Some(0)) => {
                    self.input = Input::Ended;
                    Ok(())
                }
                Ok(Some(count)) => {
                    let bytes = buffer.split_at(count).0;
                    self.send_data(bytes, receiver, queues).map(|sent| {
                        self.inbox.extend_from_slice(bytes.split_at(sent).1);
                    })
                }
                Ok(None) => {
                    self.input = Input::Empty;
                    Ok(())
                }
                Err(_) => {
                    self.input = Input::Ended;
                    self.host_gone = true;
                    Ok(())
                }
            };
            receiver.return_buffer(buffer);
            result?;
        }
    }

    /// Sends from the inbox. Returns `false` if the guest has no buffers left.
    fn drain_inbox(
        &mut self,
        receiver: &mut Receiver,
        queues: &mut Queues,
    ) -> Result<bool, QueueViolation> {
        let inbox = std::mem::take(&mut self.inbox);
        let bytes = inbox.split_at(self.inbox_start).1;
        let sent = self.send_data(bytes, receiver, queues)?;
        let finished = sent == bytes.len();
        if finished {
            self.inbox_start = 0;
        } else {
            self.inbox_start += sent;
            self.inbox = inbox;
        }
        Ok(finished || self.credit() == 0)
    }

    /// Sends as much data as the guest has credit and buffers for. Returns the number of bytes.
    fn send_data(
        &mut self,
        bytes: &[u8],
        receiver: &mut Receiver,
        queues: &mut Queues,
    ) -> Result<usize, QueueViolation> {
        let mut done = 0;
        while done < bytes.len() {
            let credit = usize::try_from(self.credit()).unwrap_or(usize::MAX);
            let limit = (bytes.len() - done).min(credit).min(MAX_PAYLOAD);
            let (_, rest) = bytes.split_at(done);
            let piece = rest.split_at(limit).0;
            if piece.is_empty() {
                break;
            }
            let Some(count) = receiver.send(queues, self.header(OP_RW, 0), piece)? else { break };
            self.sent_consumed = self.consumed;
            self.sent = self.sent.wrapping_add(u32::try_from(count).map_err(|_| QueueViolation)?);
            done += count;
        }
        Ok(done)
    }

    /// Sends a packet without data. Returns `false` if the guest has no buffers left.
    fn send_bare(
        &mut self,
        operation: u16,
        flags: u32,
        receiver: &mut Receiver,
        queues: &mut Queues,
    ) -> Result<bool, QueueViolation> {
        let sent = receiver.send(queues, self.header(operation, flags), &[])?.is_some();
        if sent {
            self.sent_consumed = self.consumed;
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
            consumed: self.consumed,
        }
    }

    /// Bytes that the guest has room for.
    fn credit(&self) -> u32 {
        self.peer_buffer.saturating_sub(self.sent.wrapping_sub(self.peer_consumed))
    }

    fn count_consumed(&mut self, count: usize) {
        // Never more than a buffer at a time.
        self.consumed = self.consumed.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Shuts down the host's input once the guest sends no more and the host has every byte.
    fn end_output(&mut self) {
        if self.guest_shutdown & SHUTDOWN_SEND != 0 && self.outbox.is_empty() {
            // A stream that is not connected any more has nothing to shut down.
            let _ = self.stream.as_ref().map(|stream| stream.shutdown(Shutdown::Write));
        }
    }
}

impl Drop for Connection {
    /// Shuts the stream down rather than only closing it: a forked process may hold a copy of the
    /// descriptor, and the host would wait for end of file until that one is closed. Then discards
    /// the host's unread bytes: closing with bytes in the buffer would give the host an error in
    /// place of end of file.
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

/// Writes as many bytes as the socket takes now.
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

/// Reads the bytes that the socket has now; `None` if there are none.
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
