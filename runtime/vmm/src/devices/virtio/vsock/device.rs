//! The device: its queues, its table of connections, and what it answers to each packet.
//!
//! Owns which connections there are. The guest may connect to one port of the host, once; all
//! else that it asks for is reset. Its event queue is left alone: it could only tell the guest
//! that all of its connections are gone, and a restored guest keeps one. The others are reset one
//! by one when it goes on.
//!
//! Invariant: nothing the guest sends makes more than [`MAX_CONNECTIONS`] connections or more
//! than [`MAX_REPLIES`] waiting answers; with that many waiting, the guest's packets stay in its
//! queue until it makes room.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use supermachine_formats::snapshot::device as formats;
use supermachine_formats::wire::CONTROL_PORT;

use super::connection::{Connection, Key, Progress};
use super::packet::{
    HEADER_SIZE, HOST_CID, Header, MAX_PAYLOAD, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST,
    OP_RESPONSE, OP_RST, OP_RW, OP_SHUTDOWN, TYPE_STREAM,
};
use super::watch::{Watch, Watcher};
use crate::devices::virtio::Device;
use crate::devices::virtio::mmio::Mmio;
use crate::devices::virtio::queue::{Broken, Chain, QueuePlan, Queues};

const DEVICE_ID: u32 = 19;
/// Receive, transmit, event.
///
/// The driver only frees what it gets back from the transmit queue, and every answer brings an
/// interrupt of its own. A packet has at most 19 descriptors, so that the queue is never full
/// of packets that the driver does not know to be sent.
pub(super) const QUEUES: [QueuePlan; 3] = [
    QueuePlan { max_size: 128, patience: 0 },
    QueuePlan { max_size: 128, patience: 32 },
    QueuePlan { max_size: 8, patience: 0 },
];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// The most connections at a time; fewer in tests, which must do with few descriptors.
pub(super) const MAX_CONNECTIONS: usize = if cfg!(test) { 64 } else { 1024 };
/// The most answers that wait for the guest's buffers.
const MAX_REPLIES: usize = 256;
/// The first port of the host's own connections.
pub(super) const FIRST_PORT: u32 = 1024;

/// The way to the guest: fills its receive buffers.
#[derive(Debug)]
pub(super) struct Lane {
    guest_cid: u64,
    chain: Chain,
    /// What passes from a socket to the guest; grows to one payload with the first.
    buffer: Vec<u8>,
}

impl Lane {
    /// Whether the guest has a buffer.
    pub(super) fn is_open(&self, queues: &Queues) -> bool {
        queues.has_next(RECEIVE)
    }

    /// Sends a packet with as much of the payload as the guest's next buffer holds; gives how
    /// much that is, or none if there is no buffer.
    pub(super) fn send(
        &mut self,
        queues: &mut Queues,
        header: Header,
        payload: &[u8],
    ) -> Result<Option<usize>, Broken> {
        if !queues.pop(RECEIVE, &mut self.chain)? {
            return Ok(None);
        }
        let room = self.chain.writable_length().checked_sub(HEADER_SIZE).ok_or(Broken)?;
        let count = payload.len().min(room);
        if count == 0 && !payload.is_empty() {
            return Err(Broken);
        }
        let length = u32::try_from(count).map_err(|_| Broken)?;
        let header = Header { destination_cid: self.guest_cid, length, ..header };
        self.chain.write(queues.memory(), 0, &header.encode())?;
        let payload = payload.get(..count).unwrap_or_default();
        self.chain.write(queues.memory(), HEADER_SIZE, payload)?;
        queues.push(RECEIVE, &self.chain, HEADER_SIZE + count)?;
        Ok(Some(count))
    }

    /// The buffer for one payload.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(MAX_PAYLOAD, 0);
        buffer
    }

    /// Keeps the buffer for the next payload.
    pub(super) fn return_buffer(&mut self, buffer: Vec<u8>) {
        self.buffer = buffer;
    }
}

/// The socket device.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) guest_cid: u64,
    config: [u8; 8],
    pub(super) connections: BTreeMap<Key, Connection>,
    /// The guest's control connection, while it lives.
    pub(super) control: Option<Key>,
    /// Whether the guest has made it; it may do so once.
    control_made: bool,
    /// The host's end of it, until it is taken.
    control_end: Option<UnixStream>,
    /// The device's end, if the host has taken its own before the guest connected.
    control_waiting: Option<UnixStream>,
    pub(super) next_port: u32,
    /// Connections that wait for the guest's buffers.
    blocked: VecDeque<Key>,
    /// Answers that belong to no connection and wait for the guest's buffers.
    replies: VecDeque<Header>,
    /// Connections that a restored guest has and the host does not: reset behind `replies`.
    pub(super) gone: VecDeque<Key>,
    /// The guest's packets wait until answers are out.
    stalled: bool,
    /// The guest will not go on: streams end at once.
    pub(super) hung_up: bool,
    packet: Chain,
    payload: Vec<u8>,
    lane: Lane,
    watch: Arc<Watch>,
}

impl Sockets {
    /// A device without connections.
    pub(super) fn new(guest_cid: u64, next_port: u32, watch: Arc<Watch>) -> Self {
        Self {
            guest_cid,
            config: guest_cid.to_le_bytes(),
            connections: BTreeMap::new(),
            control: None,
            control_made: false,
            control_end: None,
            control_waiting: None,
            next_port,
            blocked: VecDeque::new(),
            replies: VecDeque::new(),
            gone: VecDeque::new(),
            stalled: false,
            hung_up: false,
            packet: Chain::default(),
            payload: Vec::new(),
            lane: Lane { guest_cid, chain: Chain::default(), buffer: Vec::new() },
            watch,
        }
    }

    /// Takes in the control connection, with the end that the host gets if it has none yet.
    pub(super) fn set_control(&mut self, connection: Connection, end: Option<UnixStream>) {
        self.control = Some(connection.key);
        self.control_made = true;
        self.control_end = end;
        self.connections.insert(connection.key, connection);
    }

    /// The host's end of the control connection, present or to come.
    pub(super) fn take_control(&mut self) -> io::Result<UnixStream> {
        if let Some(end) = self.control_end.take() {
            return Ok(end);
        }
        if self.control_made || self.control_waiting.is_some() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let (ours, theirs) = pair()?;
        self.control_waiting = Some(ours);
        Ok(theirs)
    }

    /// Connects to the guest; `stream` is the device's end.
    pub(super) fn connect(
        &mut self,
        guest_port: u32,
        first: &[u8],
        stream: UnixStream,
        queues: &mut Queues,
    ) -> Result<io::Result<()>, Broken> {
        if self.hung_up {
            return Ok(Ok(()));
        }
        if self.is_full() {
            self.drop_closing();
        }
        if self.is_full() {
            return Ok(Err(io::ErrorKind::ResourceBusy.into()));
        }
        let key = self.free_key(guest_port);
        let mut connection = Connection::requested(key, stream);
        if let Some(stream) = &connection.stream {
            match self.watch.add(key, stream) {
                Ok(()) => connection.watched = true,
                Err(error) => return Ok(Err(error)),
            }
        }
        let progress = connection.offer(first, &mut self.lane, queues)?;
        self.connections.insert(key, connection);
        self.note(key, progress);
        Ok(Ok(()))
    }

    /// Sends bytes on the control connection.
    pub(super) fn send_control(
        &mut self,
        bytes: &[u8],
        queues: &mut Queues,
    ) -> Result<io::Result<()>, Broken> {
        let Some(connection) = self
            .control
            .and_then(|key| self.connections.get_mut(&key))
            .filter(|connection| !connection.parted)
        else {
            return Ok(Err(io::ErrorKind::NotConnected.into()));
        };
        let key = connection.key;
        let progress = connection.offer(bytes, &mut self.lane, queues)?;
        self.note(key, progress);
        // Behind the message, which may be what the guest must know first.
        self.send_replies(queues)?;
        Ok(Ok(()))
    }

    /// Whether the state tells all that is under way, but for streams that end with it.
    pub(super) fn is_quiet(&mut self) -> bool {
        let control = self.control.and_then(|key| self.connections.get_mut(&key));
        let quiet = control.is_none_or(|connection| {
            // A host that is gone takes nothing; the guest learns it when it next sends.
            connection.flush();
            connection.is_quiet()
        });
        quiet && self.replies.is_empty()
    }

    /// Drops all connections, and the end that waits for one. Those made later end at once.
    pub(super) fn hang_up(&mut self) {
        self.hung_up = true;
        self.connections.clear();
        self.blocked.clear();
        self.control = None;
        self.control_end = None;
        self.control_waiting = None;
    }

    fn stirred(
        &mut self,
        key: Key,
        room: bool,
        hung: bool,
        queues: &mut Queues,
    ) -> Result<(), Broken> {
        let Some(connection) = self.connections.get_mut(&key) else { return Ok(()) };
        connection.readable = true;
        connection.host_gone |= hung;
        let taken = !room || connection.flush();
        if connection.parted {
            if hung || !taken || !connection.has_output() {
                self.remove(key);
            }
            return Ok(());
        }
        if !taken {
            self.refuse(key);
            return self.send_replies(queues);
        }
        self.pump(key, queues)
    }

    /// Handles the guest's packets, as many as its queue holds.
    fn transmit(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        self.stalled = false;
        for _ in 0..queues.size(TRANSMIT) {
            if self.replies.len() >= MAX_REPLIES {
                self.stalled = true;
                break;
            }
            if !queues.pop(TRANSMIT, &mut self.packet)? {
                break;
            }
            let touched = self.take_packet(queues);
            queues.push(TRANSMIT, &self.packet, 0)?;
            if let Some(key) = touched? {
                self.pump(key, queues)?;
            }
        }
        self.send_replies(queues)
    }

    /// Handles the packet in `self.packet`; gives the connection that it concerned.
    fn take_packet(&mut self, queues: &Queues) -> Result<Option<Key>, Broken> {
        let mut bytes = [0; HEADER_SIZE];
        let Some(held) = self.packet.readable_length().checked_sub(HEADER_SIZE) else {
            return Ok(None);
        };
        self.packet.read(queues.memory(), 0, &mut bytes)?;
        let header = Header::decode(&bytes);
        if header.source_cid != self.guest_cid || header.destination_cid != HOST_CID {
            return Ok(None);
        }
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let sound = header.kind == TYPE_STREAM && length <= MAX_PAYLOAD && length <= held;
        let key = Key { host_port: header.destination_port, guest_port: header.source_port };
        if !sound {
            if header.kind != TYPE_STREAM || !self.knows(key) {
                self.reply_reset(&header);
            } else {
                self.refuse(key);
            }
            return Ok(None);
        }
        if header.operation == OP_RW {
            if self.payload.len() < length {
                self.payload.resize(length, 0);
            }
            let payload = self.payload.get_mut(..length).ok_or(Broken)?;
            self.packet.read(queues.memory(), HEADER_SIZE, payload)?;
        }
        Ok(self.receive(key, &header, length))
    }

    /// Handles a sound packet, whose data is in `self.payload`.
    fn receive(&mut self, key: Key, header: &Header, length: usize) -> Option<Key> {
        if header.operation == OP_REQUEST {
            return self.accept(key, header);
        }
        let Some(connection) =
            self.connections.get_mut(&key).filter(|connection| !connection.parted)
        else {
            self.reply_reset(header);
            return None;
        };
        connection.hear_credit(header);
        let legal = match header.operation {
            OP_RW => connection.deliver(self.payload.get(..length).unwrap_or_default()),
            OP_RESPONSE => connection.respond(),
            OP_CREDIT_UPDATE => true,
            OP_CREDIT_REQUEST => {
                connection.ask_credit();
                true
            }
            // The guest waits for the answer before it forgets the connection.
            OP_SHUTDOWN => !connection.shut_down(header.flags),
            OP_RST => {
                self.part(key);
                return None;
            }
            _ => false,
        };
        if !legal {
            self.refuse(key);
            return None;
        }
        if connection.has_output() {
            self.watch_for_room(key);
        }
        Some(key)
    }

    fn accept(&mut self, key: Key, header: &Header) -> Option<Key> {
        if self.knows(key) {
            self.refuse(key);
            return None;
        }
        let wanted = key.host_port == CONTROL_PORT && !self.control_made;
        let busy = self.connections.contains_key(&key) || self.is_full();
        let ends = match self.control_waiting.take_if(|_| wanted && !busy) {
            Some(ours) => Some((ours, None)),
            None if wanted && !busy => pair().ok().map(|(ours, theirs)| (ours, Some(theirs))),
            None => None,
        };
        let Some((ours, theirs)) = ends else {
            self.reply_reset(header);
            return None;
        };
        let mut connection = Connection::accepted(key, ours);
        connection.hear_credit(header);
        self.set_control(connection, theirs);
        Some(key)
    }

    /// Resets a connection that the guest knows.
    fn refuse(&mut self, key: Key) {
        self.reply(Header {
            source_port: key.host_port,
            destination_port: key.guest_port,
            kind: TYPE_STREAM,
            ..Header::default()
        });
        self.part(key);
    }

    /// Lets go of a connection that the guest has forgotten; the host still gets its bytes.
    fn part(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if connection.part() {
            self.remove(key);
        } else {
            self.watch_for_room(key);
        }
    }

    fn remove(&mut self, key: Key) {
        let connection = self.connections.remove(&key);
        if connection.is_some_and(|connection| connection.queued) {
            self.blocked.retain(|blocked| *blocked != key);
        }
        if self.control == Some(key) {
            self.control = None;
        }
    }

    /// Has the thread go on when the host makes room.
    fn watch_for_room(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let Some(stream) = &connection.stream else { return };
        if connection.watched_for_room {
            return;
        }
        let added =
            self.watch.add_room(key, stream, connection.watched).and_then(|()| self.watch.start());
        if added.is_ok() {
            connection.watched = true;
            connection.watched_for_room = true;
        } else {
            // Without the thread nobody would ever pass the bytes on.
            self.remove(key);
        }
    }

    /// Drops the connections that the host has closed and the guest does not let go.
    fn drop_closing(&mut self) {
        self.connections.retain(|_, connection| !connection.is_closing());
    }

    fn is_full(&self) -> bool {
        self.connections.len() + self.gone.len() >= MAX_CONNECTIONS
    }

    fn knows(&self, key: Key) -> bool {
        self.connections.get(&key).is_some_and(|connection| !connection.parted)
    }

    fn free_key(&mut self, guest_port: u32) -> Key {
        loop {
            let host_port = self.next_port;
            self.next_port = host_port.checked_add(1).unwrap_or(FIRST_PORT);
            let key = Key { host_port, guest_port };
            if !self.connections.contains_key(&key) && !self.gone.contains(&key) {
                return key;
            }
        }
    }

    /// Answers a packet of no connection, unless it is itself a reset.
    fn reply_reset(&mut self, header: &Header) {
        if header.operation != OP_RST {
            self.reply(Header {
                source_port: header.destination_port,
                destination_port: header.source_port,
                kind: header.kind,
                ..Header::default()
            });
        }
    }

    fn reply(&mut self, to: Header) {
        self.replies.push_back(Header { source_cid: HOST_CID, operation: OP_RST, ..to });
    }

    fn send_replies(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        while let Some(header) = self.replies.front() {
            if self.lane.send(queues, *header, &[])?.is_none() {
                return Ok(());
            }
            self.replies.pop_front();
        }
        while let Some(Key { host_port, guest_port }) = self.gone.front().copied() {
            let reset = Header {
                source_cid: HOST_CID,
                source_port: host_port,
                destination_port: guest_port,
                kind: TYPE_STREAM,
                operation: OP_RST,
                ..Header::default()
            };
            if self.lane.send(queues, reset, &[])?.is_none() {
                break;
            }
            self.gone.pop_front();
        }
        Ok(())
    }

    fn pump(&mut self, key: Key, queues: &mut Queues) -> Result<(), Broken> {
        let Some(connection) = self.connections.get_mut(&key) else { return Ok(()) };
        let progress = connection.pump(&mut self.lane, queues)?;
        self.note(key, progress);
        Ok(())
    }

    fn note(&mut self, key: Key, progress: Progress) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if progress == Progress::Blocked && !connection.queued {
            connection.queued = true;
            self.blocked.push_back(key);
        }
    }

    /// Goes on with what waited for buffers.
    fn refill(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        self.send_replies(queues)?;
        while self.lane.is_open(queues) {
            let Some(key) = self.blocked.pop_front() else { break };
            if let Some(connection) = self.connections.get_mut(&key) {
                connection.queued = false;
            }
            self.pump(key, queues)?;
        }
        if self.stalled { self.transmit(queues) } else { Ok(()) }
    }
}

impl Device for Sockets {
    fn id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &'static [QueuePlan] {
        &QUEUES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notify(&mut self, index: usize, queues: &mut Queues) -> Result<(), Broken> {
        match index {
            RECEIVE => self.refill(queues),
            TRANSMIT => self.transmit(queues),
            _ => Ok(()),
        }
    }

    fn reset(&mut self) {
        self.connections.clear();
        self.control = None;
        self.control_made = false;
        self.control_end = None;
        self.blocked.clear();
        self.replies.clear();
        self.gone.clear();
        self.stalled = false;
    }

    fn state(&self, transport: formats::Virtio) -> formats::Slot {
        formats::Slot::Vsock(transport, self.sockets_state())
    }
}

impl Watcher for Mmio<Sockets> {
    fn stirred(&self, key: Key, room: bool, hung: bool) {
        // Without a driver there are no connections.
        self.serve(|device, queues| device.stirred(key, room, hung, queues));
    }
}

/// The device's end, which never blocks, and the host's.
pub(super) fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((ours, theirs))
}
