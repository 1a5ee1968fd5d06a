//! The device: its queues, its table of connections, and its answer to each packet.
//!
//! Owns the set of connections. The guest may connect to one port of the host, once; the device
//! resets everything else that it asks for. The event queue is unused: an event could only report
//! that all connections are gone, and a restored guest keeps one. The device resets the others one
//! by one when the guest continues.
//!
//! Invariant: nothing the guest sends makes more than [`MAX_CONNECTIONS`] connections or more
//! than [`MAX_REPLIES`] waiting answers. With that many waiting, the guest's packets stay in its
//! queue until it makes room.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::unix::net::UnixStream;

use supermachine_formats::snapshot::device as formats;
use supermachine_formats::wire::CONTROL_PORT;

use super::connection::{Connection, Key, Progress};
use super::packet::{
    HEADER_SIZE, HOST_CID, Header, MAX_PAYLOAD, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST,
    OP_RESPONSE, OP_RST, OP_RW, OP_SHUTDOWN, TYPE_STREAM,
};
use super::receive::{RECEIVE, Receiver};
use crate::devices::device::{Device, Resources};
use crate::devices::error::DeviceError;
use crate::devices::event_loop::DeviceEvents;
use crate::devices::queue::{DescriptorChain, QueueConfig, QueueViolation, Queues};
use crate::os::Readiness;

const TRANSMIT: usize = 1;

/// The most connections at a time; fewer in tests, which run with few descriptors.
pub(super) const MAX_CONNECTIONS: usize = if cfg!(test) { 64 } else { 1024 };
/// The most answers that wait for the guest's buffers.
const MAX_REPLIES: usize = 256;
/// The first port of the host's own connections.
pub(super) const FIRST_PORT: u32 = 1024;

/// The socket device.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(super) guest_cid: u64,
    config: [u8; 8],
    pub(super) connections: BTreeMap<Key, Connection>,
    /// The guest's control connection, while it lives.
    pub(super) control: Option<Key>,
    /// Whether the guest has connected to the control port, which it may do once.
    control_made: bool,
    /// The host's end of the control connection, until it is taken.
    control_end: Option<UnixStream>,
    /// The device's end, if the host took its own end before the guest connected.
    control_waiting: Option<UnixStream>,
    pub(super) next_port: u32,
    /// Connections that wait for the guest's buffers.
    blocked: VecDeque<Key>,
    /// Answers that belong to no connection and wait for the guest's buffers.
    replies: VecDeque<Header>,
    /// Connections that a restored guest has and the host does not. Reset after `replies`.
    pub(super) gone: VecDeque<Key>,
    /// The guest's packets wait until `replies` has room.
    stalled: bool,
    /// The guest will never run again: new streams read end of file.
    pub(super) hung_up: bool,
    packet: DescriptorChain,
    payload: Vec<u8>,
    receiver: Receiver,
    events: DeviceEvents,
}

impl Sockets {
    /// A device without connections.
    pub(super) fn new(guest_cid: u64, next_port: u32, events: DeviceEvents) -> Self {
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
            packet: DescriptorChain::default(),
            payload: Vec::new(),
            receiver: Receiver::new(guest_cid),
            events,
        }
    }

    /// Adds the control connection, with the host's end of it if the host has none yet.
    pub(super) fn set_control(&mut self, connection: Connection, end: Option<UnixStream>) {
        self.control = Some(connection.key);
        self.control_made = true;
        self.control_end = end;
        self.connections.insert(connection.key, connection);
    }

    /// The host's end of the control connection, whether the guest has connected yet or not.
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
    ) -> Result<io::Result<()>, QueueViolation> {
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
        if let Err(error) = connection.watch_input(&self.events) {
            return Ok(Err(error));
        }
        let progress = connection.offer(first, &mut self.receiver, queues)?;
        self.connections.insert(key, connection);
        self.note_progress(key, progress);
        Ok(Ok(()))
    }

    /// Sends bytes on the control connection.
    pub(super) fn send_control(
        &mut self,
        bytes: &[u8],
        queues: &mut Queues,
    ) -> Result<io::Result<()>, QueueViolation> {
        let Some(connection) = self
            .control
            .and_then(|key| self.connections.get_mut(&key))
            .filter(|connection| !connection.is_forgotten())
        else {
            return Ok(Err(io::ErrorKind::NotConnected.into()));
        };
        let key = connection.key;
        let progress = connection.offer(bytes, &mut self.receiver, queues)?;
        self.note_progress(key, progress);
        // Behind the message, which the guest may have to see first.
        self.send_replies(queues)?;
        Ok(Ok(()))
    }

    fn host_ready(
        &mut self,
        key: Key,
        Readiness { writable, hung_up, .. }: Readiness,
        queues: &mut Queues,
    ) -> Result<(), QueueViolation> {
        let Some(connection) = self.connections.get_mut(&key) else { return Ok(()) };
        connection.note_input(hung_up);
        let taken = !writable || connection.flush();
        if connection.is_forgotten() {
            if hung_up || !taken || !connection.has_output() {
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
    fn transmit(&mut self, queues: &mut Queues) -> Result<(), QueueViolation> {
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

    /// Handles the packet in `self.packet`. Returns the connection that it belongs to.
    fn take_packet(&mut self, queues: &Queues) -> Result<Option<Key>, QueueViolation> {
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
            let payload = self.payload.get_mut(..length).ok_or(QueueViolation)?;
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
            self.connections.get_mut(&key).filter(|connection| !connection.is_forgotten())
        else {
            self.reply_reset(header);
            return None;
        };
        connection.take_credit(header);
        let legal = match header.operation {
            OP_RW => connection.deliver(self.payload.split_at(length).0),
            OP_RESPONSE => connection.respond(),
            OP_CREDIT_UPDATE => true,
            OP_CREDIT_REQUEST => {
                connection.ask_credit();
                true
            }
            // The guest waits for the answer before it forgets the connection.
            OP_SHUTDOWN => !connection.shut_down(header.flags),
            OP_RST => {
                self.forget(key);
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
        connection.take_credit(header);
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
        self.forget(key);
    }

    /// Drops a connection that the guest has forgotten, once the host has its bytes.
    fn forget(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if connection.forget() {
            self.remove(key);
        } else {
            self.watch_for_room(key);
        }
    }

    fn remove(&mut self, key: Key) {
        let connection = self.connections.remove(&key);
        if connection.is_some_and(|connection| connection.is_blocked) {
            self.blocked.retain(|blocked| *blocked != key);
        }
        if self.control == Some(key) {
            self.control = None;
        }
    }

    /// Has the event loop continue the connection when the host makes room.
    fn watch_for_room(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let watched = connection.watch_room(&self.events).and_then(|()| self.events.start());
        if watched.is_err() {
            // Without the event loop nothing would ever pass the bytes on.
            self.remove(key);
        }
    }

    /// Drops the connections that the host has closed and the guest has not.
    fn drop_closing(&mut self) {
        self.connections.retain(|_, connection| !connection.is_closing());
    }

    fn is_full(&self) -> bool {
        self.connections.len() + self.gone.len() >= MAX_CONNECTIONS
    }

    fn knows(&self, key: Key) -> bool {
        self.connections.get(&key).is_some_and(|connection| !connection.is_forgotten())
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

    fn send_replies(&mut self, queues: &mut Queues) -> Result<(), QueueViolation> {
        while let Some(header) = self.replies.front() {
            if self.receiver.send(queues, *header, &[])?.is_none() {
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
            if self.receiver.send(queues, reset, &[])?.is_none() {
                break;
            }
            self.gone.pop_front();
        }
        Ok(())
    }

    fn pump(&mut self, key: Key, queues: &mut Queues) -> Result<(), QueueViolation> {
        let Some(connection) = self.connections.get_mut(&key) else { return Ok(()) };
        let progress = connection.pump(&mut self.receiver, queues)?;
        self.note_progress(key, progress);
        Ok(())
    }

    fn note_progress(&mut self, key: Key, progress: Progress) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if progress == Progress::Blocked && !connection.is_blocked {
            connection.is_blocked = true;
            self.blocked.push_back(key);
        }
    }

    /// Resumes what waited for buffers.
    fn refill(&mut self, queues: &mut Queues) -> Result<(), QueueViolation> {
        self.send_replies(queues)?;
        while self.receiver.has_buffer(queues) {
            let Some(key) = self.blocked.pop_front() else { break };
            if let Some(connection) = self.connections.get_mut(&key) {
                connection.is_blocked = false;
            }
            self.pump(key, queues)?;
        }
        if self.stalled { self.transmit(queues) } else { Ok(()) }
    }
}

impl Device for Sockets {
    const NAME: &'static str = "vsock";
    const ID: u32 = 19;
    /// Receive, transmit, event.
    ///
    /// The driver only frees what the transmit queue returns, and every answer brings an interrupt
    /// of its own. A packet has at most 19 descriptors, so the queue is never full of packets that
    /// the driver does not know to be sent.
    const QUEUES: &'static [QueueConfig] = &[
        QueueConfig { max_size: 128, interrupt_threshold: 0 },
        QueueConfig { max_size: 128, interrupt_threshold: 32 },
        QueueConfig { max_size: 8, interrupt_threshold: 0 },
    ];

    type State = formats::Vsock;

    fn split(slot: &formats::Slot) -> Option<(&formats::Virtio, &formats::Vsock)> {
        match slot {
            formats::Slot::Vsock(transport, state) => Some((transport, state)),
            _ => None,
        }
    }

    fn from_state(state: &formats::Vsock, resources: &Resources<'_>) -> Result<Self, DeviceError> {
        Self::restore(state, resources.events.clone())
    }

    fn check(&mut self, transport: &formats::Virtio, is_running: bool) -> Result<(), DeviceError> {
        let has_connections = !self.connections.is_empty() || !self.gone.is_empty();
        if has_connections && !is_running {
            let found = transport.status.into();
            return Err(DeviceError::Field { device: Self::NAME, field: "status", found });
        }
        Ok(())
    }

    fn state(&self, transport: formats::Virtio) -> formats::Slot {
        formats::Slot::Vsock(transport, self.sockets_state())
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notify(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueViolation> {
        match index {
            RECEIVE => self.refill(queues),
            TRANSMIT => self.transmit(queues),
            _ => Ok(()),
        }
    }

    fn ready(
        &mut self,
        token: u64,
        readiness: Readiness,
        queues: &mut Queues,
    ) -> Result<(), QueueViolation> {
        self.host_ready(Key::unpack(token), readiness, queues)
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

    fn is_quiet(&mut self) -> bool {
        let control = self.control.and_then(|key| self.connections.get_mut(&key));
        let quiet = control.is_none_or(|connection| {
            // A host that is gone takes nothing; the guest learns it when it next sends.
            connection.flush();
            connection.is_quiet()
        });
        quiet && self.replies.is_empty()
    }

    fn hang_up(&mut self) {
        self.hung_up = true;
        self.connections.clear();
        self.blocked.clear();
        self.control = None;
        self.control_end = None;
        self.control_waiting = None;
    }
}

/// The device's end, which never blocks, and the host's.
pub(super) fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((ours, theirs))
}
