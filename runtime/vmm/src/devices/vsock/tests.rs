//! A scripted guest on the other side of the device: handshakes, credit, half-closed streams,
//! restores, and packets that no guest should send.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use supermachine_formats::snapshot::device as formats;
use supermachine_formats::wire::CONTROL_PORT;

use super::Streams;
use super::device::MAX_CONNECTIONS;
use super::packet::{
    HEADER_SIZE, HOST_CID, Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE,
    OP_RST, OP_RW, OP_SHUTDOWN, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM,
};
use crate::devices::fresh_vsock;
use crate::devices::testing::{Guest, Xorshift, assert_hostile_chains_stop, freeze, refusal};

const CID: u64 = 5;
const RX: usize = 0;
const TX: usize = 1;
const BUFFER_SIZE: usize = 4096;
const GUEST_BUFFER: u32 = 256 << 10;
/// Longer than any step takes, even on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The guest's side, with its receive buffers and one transmit buffer.
struct Peer {
    guest: Guest,
    buffers: Vec<u64>,
    /// Which buffer each descriptor of the receive queue holds.
    held: [u64; 128],
    out: u64,
    consumed: u32,
}

impl Peer {
    fn new(buffers: usize) -> Self {
        Self::with(Guest::running(&fresh_vsock(CID), &[]), buffers)
    }

    fn with(mut guest: Guest, buffers: usize) -> Self {
        let out = guest.allocate(HEADER_SIZE + (64 << 10));
        let mut peer = Self { guest, buffers: Vec::new(), held: [0; 128], out, consumed: 0 };
        for _ in 0..buffers {
            let address = peer.guest.allocate(BUFFER_SIZE);
            peer.buffers.push(address);
            peer.post(address);
        }
        peer.guest.notify(RX);
        peer
    }

    fn vsock(&self) -> Streams {
        self.guest.streams()
    }

    fn post(&mut self, address: u64) {
        let head = self.guest.add(RX, &[(address, BUFFER_SIZE, true)]);
        self.held[usize::from(head)] = address;
    }

    /// The next packet, if there is one now. Returns its buffer without a notification.
    fn poll(&mut self) -> Option<(Header, Vec<u8>)> {
        let (head, length) = self.guest.take_used(RX)?;
        let address = self.held[usize::try_from(head).unwrap()];
        let bytes = self.guest.load(address, usize::try_from(length).unwrap());
        self.post(address);
        let header = Header::decode(bytes[..HEADER_SIZE].try_into().unwrap());
        assert_eq!(header.length as usize, bytes.len() - HEADER_SIZE);
        assert_eq!((header.source_cid, header.destination_cid), (HOST_CID, CID));
        Some((header, bytes[HEADER_SIZE..].to_vec()))
    }

    /// The next packet. Waits for the event loop if necessary.
    fn receive(&mut self) -> (Header, Vec<u8>) {
        let start = Instant::now();
        loop {
            if let Some(packet) = self.poll() {
                self.guest.notify(RX);
                return packet;
            }
            assert!(start.elapsed() < TIMEOUT, "no packet comes");
            thread::yield_now();
        }
    }

    /// Receives a packet and checks its operation.
    fn expect(&mut self, operation: u16) -> (Header, Vec<u8>) {
        let (header, data) = self.receive();
        assert_eq!(header.operation, operation);
        (header, data)
    }

    fn send_raw(&mut self, header: &Header, data: &[u8]) {
        self.guest.store(self.out, &header.encode());
        self.guest.store(self.out + HEADER_SIZE as u64, data);
        let body = (self.out + HEADER_SIZE as u64, data.len(), false);
        let head = (self.out, HEADER_SIZE, false);
        if data.is_empty() {
            self.guest.add(TX, &[head]);
        } else {
            self.guest.add(TX, &[head, body]);
        }
        self.guest.notify(TX);
        while self.guest.take_used(TX).is_some() {}
    }

    /// A packet on the connection that `to` came from.
    fn answer(&self, to: &Header, operation: u16, flags: u32) -> Header {
        Header {
            source_cid: CID,
            destination_cid: HOST_CID,
            source_port: to.destination_port,
            destination_port: to.source_port,
            length: 0,
            kind: TYPE_STREAM,
            operation,
            flags,
            buffer: GUEST_BUFFER,
            consumed: self.consumed,
        }
    }

    fn tell(&mut self, to: &Header, operation: u16, flags: u32) {
        self.send_raw(&self.answer(to, operation, flags), &[]);
    }

    fn write(&mut self, to: &Header, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        self.send_raw(&Header { length, ..self.answer(to, OP_RW, 0) }, data);
    }

    /// Connects, and makes the guest accept.
    fn established(&mut self) -> (UnixStream, Header) {
        let stream = self.vsock().connect(7, &[]).unwrap();
        let (request, _) = self.expect(OP_REQUEST);
        self.tell(&request, OP_RESPONSE, 0);
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        (stream, request)
    }

    /// Makes the guest open its control connection. Returns a header from that connection.
    fn with_control(&mut self) -> Header {
        let request = self.to_host(CONTROL_PORT);
        self.send_raw(&request, &[]);
        let (response, _) = self.expect(OP_RESPONSE);
        response
    }

    /// A request of the guest.
    fn to_host(&self, port: u32) -> Header {
        let from = Header { source_port: port, destination_port: 9000, ..Header::default() };
        self.answer(&from, OP_REQUEST, 0)
    }
}

fn is_at_end(stream: &mut UnixStream) -> bool {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    matches!(stream.read(&mut [0]), Ok(0))
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 253).unwrap()).collect()
}

#[test]
fn connect_sends_request_and_first_bytes_with_one_interrupt() {
    let mut peer = Peer::new(32);
    let mut stream = peer.vsock().connect(2, b"run").unwrap();
    assert_eq!(peer.guest.interrupts(), 1);
    let (request, data) = peer.poll().unwrap();
    assert_eq!((request.operation, request.destination_port, data.len()), (OP_REQUEST, 2, 0));
    assert_eq!((request.kind, request.buffer, request.consumed), (TYPE_STREAM, 256 << 10, 0));
    let (first, data) = peer.poll().unwrap();
    assert_eq!((first.operation, &data[..]), (OP_RW, &b"run"[..]));
    assert!(peer.poll().is_none());

    peer.tell(&request, OP_RESPONSE, 0);
    peer.write(&request, b"done");
    peer.tell(&request, OP_SHUTDOWN, SHUTDOWN_BOTH);
    let (reset, _) = peer.poll().unwrap();
    assert_eq!((reset.operation, reset.source_port), (OP_RST, request.source_port));
    assert_eq!(peer.guest.interrupts(), 2, "sent packets cause none");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"done");
}

#[test]
fn first_bytes_over_the_buffers_follow_as_the_driver_refills() {
    let mut peer = Peer::new(3);
    let bytes = text(60_000);
    let _stream = peer.vsock().connect(2, &bytes).unwrap();
    peer.expect(OP_REQUEST);
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        got.extend(peer.expect(OP_RW).1);
    }
    assert!(got == bytes);
}

#[test]
fn first_bytes_over_64_kib_wait_for_credit() {
    let mut peer = Peer::new(64);
    let bytes = text(200_000);
    let _stream = peer.vsock().connect(2, &bytes).unwrap();
    let (request, _) = peer.expect(OP_REQUEST);
    let mut got = Vec::new();
    while let Some((_, data)) = peer.poll() {
        got.extend(data);
    }
    assert_eq!(got.len(), 64 << 10);
    peer.guest.notify(RX);
    assert!(peer.poll().is_none());
    peer.tell(&request, OP_RESPONSE, 0);
    while got.len() < bytes.len() {
        got.extend(peer.expect(OP_RW).1);
    }
    assert!(got == bytes);
}

#[test]
fn refusal_by_the_guest_closes_the_stream() {
    let mut peer = Peer::new(8);
    let mut stream = peer.vsock().connect(2, b"run").unwrap();
    let (request, _) = peer.expect(OP_REQUEST);
    peer.tell(&request, OP_RST, 0);
    assert!(is_at_end(&mut stream));
    peer.expect(OP_RW);
    assert!(peer.poll().is_none(), "a reset is not answered");
}

#[test]
fn connect_without_a_driver_is_refused() {
    let guest = Guest::new(&fresh_vsock(CID), &[]);
    let error = guest.streams().connect(2, &[]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
}

#[test]
fn connections_over_the_limit_are_refused() {
    let mut peer = Peer::new(8);
    let streams: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| {
            let stream = peer.vsock().connect(2, &[]).unwrap();
            let (request, _) = peer.expect(OP_REQUEST);
            (stream, request)
        })
        .collect();
    let error = peer.vsock().connect(2, &[]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    let mut ports: Vec<_> = streams.iter().map(|(_, request)| request.source_port).collect();
    ports.dedup();
    assert_eq!(ports.len(), MAX_CONNECTIONS);
    peer.tell(&streams[3].1, OP_RST, 0);
    peer.vsock().connect(2, &[]).unwrap();
}

#[test]
fn host_input_and_its_end_reach_the_guest() {
    let mut peer = Peer::new(8);
    let (mut stream, request) = peer.established();
    stream.write_all(b"in").unwrap();
    assert_eq!(peer.expect(OP_RW).1, b"in");
    stream.shutdown(Shutdown::Write).unwrap();
    let (shutdown, _) = peer.expect(OP_SHUTDOWN);
    assert_eq!(shutdown.flags, SHUTDOWN_SEND);
    peer.write(&request, b"out");
    let mut out = [0; 3];
    stream.read_exact(&mut out).unwrap();
    assert_eq!(&out, b"out");
    peer.tell(&request, OP_SHUTDOWN, SHUTDOWN_SEND);
    assert!(is_at_end(&mut stream));
}

#[test]
fn host_close_reaches_the_guest_after_the_last_bytes() {
    let mut peer = Peer::new(8);
    let (mut stream, request) = peer.established();
    stream.write_all(b"last").unwrap();
    drop(stream);
    assert_eq!(peer.expect(OP_RW).1, b"last");
    let mut flags = peer.expect(OP_SHUTDOWN).0.flags;
    if flags == SHUTDOWN_SEND {
        // Bytes and end came up one after the other.
        flags = peer.expect(OP_SHUTDOWN).0.flags;
    }
    assert_eq!(flags, SHUTDOWN_BOTH);
    peer.write(&request, b"who reads this");
    peer.expect(OP_RST);
}

#[test]
fn guest_with_closed_output_still_receives() {
    let mut peer = Peer::new(8);
    let (mut stream, request) = peer.established();
    peer.tell(&request, OP_SHUTDOWN, SHUTDOWN_SEND);
    assert!(is_at_end(&mut stream));
    stream.write_all(b"more").unwrap();
    assert_eq!(peer.expect(OP_RW).1, b"more");
    peer.write(&request, b"broken word");
    peer.expect(OP_RST);
}

#[test]
fn guest_with_closed_input_receives_nothing() {
    let mut peer = Peer::new(8);
    let (mut stream, request) = peer.established();
    peer.tell(&request, OP_SHUTDOWN, SHUTDOWN_RECEIVE);
    assert_eq!(stream.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    peer.write(&request, b"still");
    let mut out = [0; 5];
    stream.read_exact(&mut out).unwrap();
    peer.tell(&request, OP_SHUTDOWN, SHUTDOWN_SEND);
    peer.expect(OP_RST);
    assert!(is_at_end(&mut stream));
}

#[test]
fn reset_with_unread_input_reads_end_of_file() {
    let mut peer = Peer::new(1);
    let mut stream = peer.vsock().connect(7, &[]).unwrap();
    stream.write_all(b"never read").unwrap();
    let (request, _) = peer.receive();
    peer.tell(&request, OP_RST, 0);
    assert!(is_at_end(&mut stream));
}

#[test]
fn mebibyte_to_a_slow_reader_arrives_whole() {
    let mut peer = Peer::new(32);
    let (mut stream, request) = peer.established();
    let bytes = text(1 << 20);
    let reader = thread::spawn(move || {
        let mut got: Vec<u8> = Vec::new();
        let mut piece = [0; 700];
        loop {
            let count = stream.read(&mut piece).unwrap();
            if count == 0 {
                return got;
            }
            got.extend(&piece[..count]);
            thread::yield_now();
        }
    });
    let (mut sent, mut consumed, mut updates) = (0_u32, 0, 0);
    let start = Instant::now();
    while (sent as usize) < bytes.len() {
        assert!(start.elapsed() < TIMEOUT, "no credit comes");
        while let Some((header, _)) = peer.poll() {
            assert_eq!(header.operation, OP_CREDIT_UPDATE);
            consumed = header.consumed;
            updates += 1;
            peer.guest.notify(RX);
        }
        let room = (256 << 10) - (sent - consumed);
        let from = sent as usize;
        let count = (bytes.len() - from).min(room as usize).min(50_000);
        if count > 0 {
            peer.write(&request, &bytes[from..from + count]);
            sent += u32::try_from(count).unwrap();
        } else {
            thread::yield_now();
        }
    }
    peer.tell(&request, OP_SHUTDOWN, SHUTDOWN_BOTH);
    loop {
        match peer.receive().0.operation {
            OP_CREDIT_UPDATE => updates += 1,
            operation => break assert_eq!(operation, OP_RST),
        }
    }
    assert!(reader.join().unwrap() == bytes);
    assert!((3..=8).contains(&updates), "{updates} updates");
}

#[test]
fn mebibyte_from_a_stalled_writer_arrives_whole_within_credit() {
    let mut peer = Peer::new(16);
    let (mut stream, request) = peer.established();
    let bytes = text(1 << 20);
    let expected = bytes.clone();
    let writer = thread::spawn(move || stream.write_all(&bytes));
    let mut got = Vec::new();
    let mut since = 0;
    while got.len() < expected.len() {
        let (header, data) = peer.receive();
        if header.operation == OP_SHUTDOWN {
            break;
        }
        since += data.len();
        got.extend(data);
        assert!(since <= GUEST_BUFFER as usize, "more than the guest has room for");
        let last = got.len() == expected.len();
        if since == GUEST_BUFFER as usize && !last {
            thread::yield_now();
            assert!(peer.poll().is_none());
            peer.consumed = u32::try_from(got.len()).unwrap();
            since = 0;
            peer.tell(&request, OP_CREDIT_UPDATE, 0);
        }
    }
    writer.join().unwrap().unwrap();
    assert!(got == expected);
}

#[test]
fn guest_that_overruns_its_credit_is_reset() {
    let mut peer = Peer::new(8);
    let (mut stream, request) = peer.established();
    let piece = text(64 << 10);
    let mut sent = 0;
    while !matches!(peer.poll(), Some((Header { operation: OP_RST, .. }, _))) {
        peer.write(&request, &piece);
        sent += piece.len();
        assert!(sent < 4 << 20, "nothing stops it");
    }
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), sent - piece.len(), "what was taken is passed on");
}

#[test]
fn credit_request_is_answered() {
    let mut peer = Peer::new(8);
    let (_stream, request) = peer.established();
    peer.write(&request, b"12345");
    peer.tell(&request, OP_CREDIT_REQUEST, 0);
    let (update, _) = peer.expect(OP_CREDIT_UPDATE);
    assert_eq!((update.buffer, update.consumed), (256 << 10, 5));
}

#[test]
fn control_connection_is_accepted_once() {
    let mut peer = Peer::new(8);
    let control = peer.with_control();
    peer.write(&control, b"hello");
    let mut end = peer.vsock().control().unwrap();
    let mut hello = [0; 5];
    end.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    assert!(peer.vsock().control().is_err());
    peer.vsock().send_control(b"resume").unwrap();
    assert_eq!(peer.expect(OP_RW).1, b"resume");
    let second = Header { source_port: 9001, ..peer.to_host(CONTROL_PORT) };
    peer.send_raw(&second, &[]);
    assert_eq!(peer.expect(OP_RST).0.destination_port, 9001);
    peer.write(&control, b"lives");
    end.read_exact(&mut hello).unwrap();
}

#[test]
fn control_end_taken_early_gets_what_the_guest_sends_later() {
    let guest = Guest::new(&fresh_vsock(CID), &[]);
    let mut end = guest.streams().control().unwrap();
    assert!(guest.streams().control().is_err());
    assert!(guest.streams().send_control(b"x").is_err());
    let mut guest = guest;
    guest.bring_up();
    let mut peer = Peer::with(guest, 8);
    let control = peer.with_control();
    peer.write(&control, b"hello");
    let mut hello = [0; 5];
    end.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    assert!(peer.vsock().control().is_err());
}

#[test]
fn connection_closed_by_host_makes_room_for_another() {
    let mut peer = Peer::new(8);
    let streams: Vec<_> = (0..MAX_CONNECTIONS).map(|_| peer.established()).collect();
    assert!(peer.vsock().connect(2, &[]).is_err());
    let first = streams[0].1;
    drop(streams);
    for _ in 0..MAX_CONNECTIONS {
        while peer.expect(OP_SHUTDOWN).0.flags != SHUTDOWN_BOTH {}
    }
    let _another = peer.established();
    peer.tell(&first, OP_SHUTDOWN, SHUTDOWN_BOTH);
    peer.expect(OP_RST);
}

#[test]
fn request_to_another_port_is_reset() {
    let mut peer = Peer::new(8);
    peer.send_raw(&peer.to_host(CONTROL_PORT + 1), &[]);
    let (reset, _) = peer.expect(OP_RST);
    assert_eq!((reset.source_port, reset.destination_port), (CONTROL_PORT + 1, 9000));
}

#[test]
fn second_request_on_a_connection_resets_it() {
    let mut peer = Peer::new(8);
    peer.with_control();
    peer.send_raw(&peer.to_host(CONTROL_PORT), &[]);
    peer.expect(OP_RST);
    assert!(is_at_end(&mut peer.vsock().control().unwrap()));
    assert!(peer.vsock().send_control(b"x").is_err());
}

#[test]
fn packet_of_an_unknown_connection_is_reset() {
    let mut peer = Peer::new(8);
    let unknown = Header { source_port: 5, destination_port: 6, ..Header::default() };
    for operation in [OP_RESPONSE, OP_SHUTDOWN, OP_RW, OP_CREDIT_UPDATE, 0, 99] {
        peer.tell(&unknown, operation, 0);
        peer.expect(OP_RST);
    }
    peer.tell(&unknown, OP_RST, 0);
    assert!(peer.poll().is_none());
}

#[test]
fn packet_that_is_malformed_resets_or_is_dropped() {
    for (name, resets, change) in [
        ("an unknown operation", true, (|header| header.operation = 77) as fn(&mut Header)),
        ("a second response", true, |header| header.operation = OP_RESPONSE),
        ("a length over its bytes", true, |header| header.length = 4000),
        ("a length over the limit", true, |header| header.length = u32::MAX),
        ("another socket type", true, |header| header.kind = 2),
        ("another source", false, |header| header.source_cid = CID + 1),
        ("another destination", false, |header| header.destination_cid = 3),
    ] {
        let mut peer = Peer::new(8);
        let (_stream, request) = peer.established();
        let mut header = Header { length: 4, ..peer.answer(&request, OP_RW, 0) };
        change(&mut header);
        peer.send_raw(&header, b"data");
        let answer = peer.poll().map(|(header, _)| header.operation);
        assert_eq!(answer, resets.then_some(OP_RST), "{name}");
        assert!(!peer.guest.is_broken());
    }
}

#[test]
fn packet_shorter_than_a_header_is_dropped() {
    let mut peer = Peer::new(8);
    for length in [0, 1, HEADER_SIZE - 1] {
        peer.guest.add(TX, &[(peer.out, length, false)]);
        peer.guest.notify(TX);
        assert!(peer.guest.take_used(TX).is_some());
    }
    assert!(peer.poll().is_none());
    assert!(!peer.guest.is_broken());
}

#[test]
fn receive_buffer_without_room_stops_device_and_closes_streams() {
    for length in [0, HEADER_SIZE - 1, HEADER_SIZE] {
        let mut peer = Peer::new(1);
        let mut stream = peer.vsock().connect(2, b"first").unwrap();
        peer.guest.take_used(RX).unwrap();
        peer.guest.add(RX, &[(peer.buffers[0], length, true)]);
        peer.guest.notify(RX);
        assert!(peer.guest.is_broken(), "{length}");
        assert!(is_at_end(&mut stream));
        assert!(peer.vsock().connect(2, &[]).is_err());
    }
}

#[test]
fn packets_wait_while_answers_lack_buffers() {
    let mut peer = Peer::new(0);
    let unknown = Header { source_port: 5, destination_port: 6, ..Header::default() };
    for _ in 0..300 {
        peer.tell(&unknown, OP_RW, 0);
    }
    let address = peer.guest.allocate(BUFFER_SIZE);
    peer.post(address);
    peer.guest.notify(RX);
    for _ in 0..300 {
        peer.expect(OP_RST);
    }
    assert!(peer.poll().is_none());
}

#[test]
fn hostile_chains_stop_device_until_reset() {
    assert_hostile_chains_stop(&fresh_vsock(CID), &[], TX, |_| {});
}

#[test]
fn many_sent_packets_raise_an_interrupt() {
    let mut peer = Peer::new(8);
    let (_stream, request) = peer.established();
    let before = peer.guest.interrupts();
    for _ in 0..15 {
        peer.write(&request, b"x");
    }
    assert_eq!(peer.guest.interrupts(), before);
    peer.write(&request, b"x");
    assert_eq!(peer.guest.interrupts(), before + 1);
}

/// The guest counts unfreed bytes against its socket's buffer, and does not wake a sender while
/// that is half full.
#[test]
fn sent_bytes_are_not_left_unannounced() {
    let mut peer = Peer::new(8);
    let (stream, request) = peer.established();
    let before = peer.guest.interrupts();
    let mut received = [0; 20 << 10];
    peer.write(&request, &[1; 20 << 10]);
    (&stream).read_exact(&mut received).unwrap();
    assert_eq!(peer.guest.interrupts(), before);
    peer.write(&request, &[2; 20 << 10]);
    (&stream).read_exact(&mut received).unwrap();
    assert_eq!(peer.guest.interrupts(), before + 1);
}

/// A device restored from a state, over the same memory.
fn restored(peer: &Peer, state: &formats::Slot) -> Peer {
    let mut guest = Guest::over(peer.guest.memory.clone(), state, &[]);
    guest.queues = peer.guest.queues.clone();
    let Peer { buffers, held, out, consumed, .. } = peer;
    Peer { guest, buffers: buffers.clone(), held: *held, out: *out, consumed: *consumed }
}

fn sockets_of(state: &formats::Slot) -> &formats::Vsock {
    let formats::Slot::Vsock(_, sockets) = state else { panic!("not a socket device") };
    sockets
}

fn gone(request: &Header) -> formats::VsockConnection {
    formats::VsockConnection {
        host_port: request.source_port,
        guest_port: request.destination_port,
        peer_buffer: 0,
        peer_consumed: 0,
        sent: 0,
        consumed: 0,
    }
}

#[test]
fn restore_keeps_control_connection_and_resets_others() {
    let mut peer = Peer::new(8);
    let control = peer.with_control();
    peer.write(&control, b"hello");
    peer.vsock().send_control(b"abc").unwrap();
    peer.expect(OP_RW);
    let (mut stream, request) = peer.established();
    let events = peer.guest.events.clone();
    let frozen = freeze(&events, &peer.guest.slot).unwrap();
    let state = peer.guest.slot.state();
    let expected = formats::VsockConnection {
        host_port: CONTROL_PORT,
        guest_port: 9000,
        peer_buffer: GUEST_BUFFER,
        peer_consumed: 0,
        sent: 3,
        consumed: 5,
    };
    assert_eq!(
        *sockets_of(&state),
        formats::Vsock {
            guest_cid: CID,
            next_port: request.source_port + 1,
            connections: vec![expected, gone(&request)]
        }
    );
    let mut copy = restored(&peer, &state);
    assert_eq!(copy.guest.slot.state(), state);
    copy.vsock().send_control(b"resume").unwrap();
    assert_eq!(copy.guest.interrupts(), 1);
    let (header, data) = copy.expect(OP_RW);
    assert_eq!((&data[..], header.consumed, header.source_port), (&b"resume"[..], 5, CONTROL_PORT));
    let (reset, _) = copy.expect(OP_RST);
    let ports = |header: &Header| (header.source_port, header.destination_port);
    assert_eq!(ports(&reset), ports(&request));
    assert_eq!(sockets_of(&copy.guest.slot.state()).connections.len(), 1);
    let mut end = copy.vsock().control().unwrap();
    copy.write(&control, b"resumed");
    let mut resumed = [0; 7];
    end.read_exact(&mut resumed).unwrap();
    assert_eq!(&resumed, b"resumed");
    // The guest may have sent this before it saw the reset.
    copy.tell(&request, OP_SHUTDOWN, SHUTDOWN_BOTH);
    assert_eq!(copy.expect(OP_RST).0.source_port, request.source_port);
    copy.established();

    // The original device's stream is unchanged.
    drop(frozen);
    peer.guest.queues = copy.guest.queues.clone();
    stream.set_nonblocking(true).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn streams_work_after_a_freeze() {
    let mut peer = Peer::new(8);
    peer.with_control();
    let (mut stream, request) = peer.established();
    let events = peer.guest.events.clone();
    let frozen = freeze(&events, &peer.guest.slot).unwrap();
    let before = peer.guest.slot.state();
    stream.write_all(b"in").unwrap();
    let opener = peer.vsock();
    let opening = thread::spawn(move || opener.connect(8, b"first"));
    // Gives the writer and the opener time to break the freeze.
    thread::sleep(Duration::from_millis(30));
    assert!(peer.poll().is_none());
    assert_eq!(peer.guest.slot.state(), before);
    drop(frozen);
    let _other = opening.join().unwrap().unwrap();
    let mut heard: Vec<_> = (0..3).map(|_| peer.receive()).collect();
    heard.sort_by_key(|(header, data)| (header.destination_port, data.clone()));
    let heard: Vec<_> = heard.iter().map(|(header, data)| (header.operation, &data[..])).collect();
    assert_eq!(heard, [(OP_RW, &b"in"[..]), (OP_REQUEST, b""), (OP_RW, b"first")]);
    peer.write(&request, b"out");
    let mut out = [0; 3];
    stream.read_exact(&mut out).unwrap();
    assert_eq!(&out, b"out");
}

#[test]
fn resets_after_restore_wait_for_buffers_and_stay_in_the_state() {
    let mut peer = Peer::new(1);
    let streams: Vec<_> = (0..5).map(|_| peer.established()).collect();
    let state = peer.guest.slot.state();
    let wanted: Vec<_> = streams.iter().map(|(_, request)| gone(request)).collect();
    assert_eq!(sockets_of(&state).connections, wanted);
    let mut copy = restored(&peer, &state);
    for done in 0..5 {
        assert_eq!(sockets_of(&copy.guest.slot.state()).connections, wanted[done..]);
        copy.guest.notify(RX);
        let (reset, _) = copy.poll().unwrap();
        assert_eq!(
            (reset.operation, reset.source_port, reset.destination_port),
            (OP_RST, wanted[done].host_port, wanted[done].guest_port)
        );
    }
    copy.guest.notify(RX);
    assert!(copy.poll().is_none());
    copy.established();
}

#[test]
fn closed_stream_is_not_reset_after_restore() {
    let mut peer = Peer::new(8);
    let (stream, _) = peer.established();
    drop(stream);
    while peer.expect(OP_SHUTDOWN).0.flags != SHUTDOWN_BOTH {}
    let (_parted, request) = peer.established();
    peer.tell(&request, OP_RST, 0);
    assert_eq!(sockets_of(&peer.guest.slot.state()).connections, []);
}

#[test]
fn freeze_with_control_bytes_in_flight_is_busy() {
    let mut peer = Peer::new(1);
    let control = peer.with_control();
    let vsock = peer.vsock();
    let (events, slot) = (peer.guest.events.clone(), peer.guest.slot.clone());
    let busy = || freeze(&events, &slot).is_none();
    vsock.send_control(&text(5000)).unwrap();
    assert!(busy());
    peer.expect(OP_RW);
    peer.expect(OP_RW);
    assert!(!busy());
    let mut end = vsock.control().unwrap();
    let piece = text(50_000);
    for _ in 0..6 {
        peer.write(&control, &piece);
    }
    let waits = busy();
    let mut got = vec![0; 300_000];
    end.read_exact(&mut got).unwrap();
    while let Some((header, _)) = peer.poll() {
        assert_eq!(header.operation, OP_CREDIT_UPDATE);
        peer.guest.notify(RX);
    }
    assert!(!busy());
    assert!(waits, "a socket does not hold so much");
}

#[test]
fn freeze_with_a_reset_or_credit_due_is_busy() {
    for operation in [OP_RW, OP_CREDIT_REQUEST] {
        let mut peer = Peer::new(1);
        let control = peer.with_control();
        let vsock = peer.vsock();
        let _end = vsock.control().unwrap();
        // Takes the only buffer.
        let _stream = vsock.connect(7, &[]).unwrap();
        if operation == OP_RW {
            let stranger = Header { source_port: 77, ..control };
            peer.write(&stranger, b"x");
        } else {
            peer.tell(&control, operation, 0);
        }
        assert!(freeze(&peer.guest.events, &peer.guest.slot).is_none(), "{operation}");
        peer.expect(OP_REQUEST);
        peer.receive();
        assert!(freeze(&peer.guest.events, &peer.guest.slot).is_some(), "{operation}");
    }
}

#[test]
fn hang_up_closes_every_stream() {
    let mut peer = Peer::new(8);
    peer.with_control();
    let mut control = peer.vsock().control().unwrap();
    let (mut stream, request) = peer.established();
    peer.vsock().hang_up();
    assert!(is_at_end(&mut control));
    assert!(is_at_end(&mut stream));
    peer.write(&request, b"x");
    peer.expect(OP_RST);
    assert!(peer.vsock().has_hung_up());
    assert!(is_at_end(&mut peer.vsock().connect(7, b"late").unwrap()));
    let guest = Guest::new(&fresh_vsock(CID), &[]);
    let mut early = guest.streams().control().unwrap();
    guest.streams().hang_up();
    assert!(is_at_end(&mut early));
}

#[test]
fn driver_reset_closes_the_streams() {
    let mut peer = Peer::new(8);
    let (mut stream, _) = peer.established();
    peer.guest.set(0x70, 0);
    assert!(is_at_end(&mut stream));
    let formats::Slot::Vsock(fresh, _) = fresh_vsock(CID) else { panic!("not a socket device") };
    let formats::Slot::Vsock(transport, sockets) = peer.guest.slot.state() else {
        panic!("not a socket device")
    };
    assert_eq!((transport, sockets.connections), (fresh, vec![]));
}

#[test]
fn snapshot_keeps_the_next_host_port() {
    let mut peer = Peer::new(8);
    let (_stream, request) = peer.established();
    let state = peer.guest.slot.state();
    let formats::Slot::Vsock(_, sockets) = &state else { panic!("not a socket device") };
    assert_eq!(sockets.next_port, request.source_port + 1);
}

#[test]
fn drop_of_last_handle_closes_the_streams() {
    let mut peer = Peer::new(8);
    let (mut stream, _) = peer.established();
    drop(peer);
    assert!(is_at_end(&mut stream));
}

#[test]
fn state_with_an_illegal_field_is_refused() {
    let mut peer = Peer::new(8);
    peer.with_control();
    let state = peer.guest.slot.state();
    let changed = |change: fn(&mut formats::Virtio, &mut formats::Vsock)| {
        let mut state = state.clone();
        let formats::Slot::Vsock(transport, sockets) = &mut state else { panic!("sockets") };
        change(transport, sockets);
        refusal(&state, &[])
    };
    for (expected, refused) in [
        ("guest cid is 0x2", changed(|_, sockets| sockets.guest_cid = 2)),
        ("guest cid is 0xffffffff", changed(|_, sockets| sockets.guest_cid = u32::MAX.into())),
        ("host port is 0x9", changed(|_, sockets| sockets.connections[0].host_port = 9)),
        (
            "host port is 0x1",
            changed(|_, sockets| sockets.connections.push(sockets.connections[0].clone())),
        ),
        ("host port is 0x3ff", changed(|_, sockets| sockets.connections[0].host_port = 0x3ff)),
        (
            "credit of a connection that is gone is 0x7",
            changed(|_, sockets| {
                let other = gone(&Header { source_port: 1024, ..Header::default() });
                sockets.connections.push(formats::VsockConnection { sent: 7, ..other });
            }),
        ),
        (
            "count of connections is 0x42",
            changed(|_, sockets| {
                let other = gone(&Header { source_port: 1024, ..Header::default() });
                sockets.connections.resize(MAX_CONNECTIONS + 2, other);
            }),
        ),
        ("status is 0xb", changed(|transport, _| transport.status = 0xb)),
    ] {
        assert!(refused.contains(expected), "{refused}");
    }
}

#[test]
fn random_packets_leave_a_device_that_works() {
    for seed in 1..=8 {
        let mut random = Xorshift(0x9e37_79b9_7f4a_7c15 ^ seed);
        let mut peer = Peer::new(16);
        let control = peer.with_control();
        let mut streams = Vec::new();
        for _ in 0..3000 {
            if random.below(40) == 0 {
                streams.extend(peer.vsock().connect(7, &text(100)));
            }
            if random.below(50) == 0 && !streams.is_empty() {
                let place = usize::try_from(random.below(streams.len() as u64)).unwrap();
                streams.swap_remove(place);
            }
            let length = usize::try_from(random.below(3000)).unwrap();
            let mut header = Header {
                destination_port: u32::try_from(1024 + random.below(80)).unwrap(),
                source_port: 7,
                length: u32::try_from(length).unwrap(),
                operation: u16::try_from(random.below(9)).unwrap(),
                flags: u32::try_from(random.below(5)).unwrap(),
                ..peer.answer(&control, 0, 0)
            };
            let noise = u32::try_from(random.next() >> 32).unwrap();
            match random.below(12) {
                0 => header.length = noise,
                1 => header.buffer = noise,
                2 => header.consumed = noise,
                3 => header.kind = 3,
                4 => header.source_cid = random.next(),
                5 => header.source_port = noise,
                6 => header.destination_port = CONTROL_PORT,
                _ => {}
            }
            peer.send_raw(&header, &text(length));
            for _ in 0..random.below(20) {
                let _ = peer.poll();
            }
            peer.guest.notify(RX);
        }
        assert!(!peer.guest.is_broken());
        while peer.poll().is_some() {
            peer.guest.notify(RX);
        }
        drop(streams);
        let mut fresh = peer.vsock().connect(8, &[]).unwrap();
        let request = loop {
            let (header, _) = peer.receive();
            if (header.operation, header.destination_port) == (OP_REQUEST, 8) {
                break header;
            }
        };
        peer.tell(&request, OP_RESPONSE, 0);
        peer.write(&request, b"sound");
        let mut sound = [0; 5];
        fresh.read_exact(&mut sound).unwrap();
        assert_eq!(&sound, b"sound");
    }
}
