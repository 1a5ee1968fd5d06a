//! Forwards to a scripted agent.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::thread;

use supermachine_formats::wire::{
    Datagram, Failure, HEADER_SIZE, Header, MAX_DATAGRAM, Message, Segment,
};

use super::super::tests::{Guest, TIMEOUT, eventually};
use super::flow::QUEUE;
use super::*;

/// Bounds that a test reaches, but not by waiting.
const FEW: Limits = Limits { flows: 3, idle: Duration::from_secs(3600) };

fn expose_within(guest: &Guest, limits: Limits) -> UdpForward {
    let port = UdpPort::bind(([127, 0, 0, 1], 0).into(), 53).unwrap();
    port.serve_within(limits, &guest.dialer).unwrap()
}

fn exposed(guest: &Guest) -> UdpForward {
    expose_within(guest, LIMITS)
}

fn client(forward: &UdpForward) -> UdpSocket {
    let socket = UdpSocket::bind((forward.local_addr().ip(), 0)).unwrap();
    socket.connect(forward.local_addr()).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket
}

/// The next flow's stream, after the guest's reply to its request.
fn flow(guest: &Guest) -> UnixStream {
    let (request, mut stream) = guest.streams.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(request, Request::Datagrams { port: 53 });
    stream.write_all(&Reply::Connected.to_frame()).unwrap();
    stream
}

/// The next datagram for the guest; `None` once the stream is closed.
fn taken(mut stream: &UnixStream) -> Option<Vec<u8>> {
    let mut header = [0; HEADER_SIZE];
    stream.read_exact(&mut header).ok()?;
    let length = Datagram::check(Header::decode(header).unwrap()).unwrap();
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).unwrap();
    Some(payload)
}

fn give(mut stream: &UnixStream, bytes: &[u8]) {
    stream.write_all(&Datagram(bytes.to_vec()).to_frame()).unwrap();
}

fn received(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 16];
    let count = socket.recv(&mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

#[test]
fn datagrams_keep_their_bounds_in_both_directions() {
    let guest = Guest::new();
    let forward = exposed(&guest);
    let client = client(&forward);
    client.send(b"before the guest has replied").unwrap();
    let stream = flow(&guest);
    assert_eq!(taken(&stream).unwrap(), b"before the guest has replied");
    for length in [5, 0, 1, 1400, MAX_DATAGRAM, 0] {
        let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        client.send(&bytes).unwrap();
        assert!(taken(&stream).unwrap() == bytes, "{length}");
        give(&stream, &bytes);
        assert!(received(&client) == bytes, "{length}");
    }
    assert_eq!(guest.state.dials.load(Ordering::Relaxed), 1);
}

#[test]
fn each_client_has_a_flow_and_gets_its_own_answers() {
    let guest = Guest::new();
    let forward = exposed(&guest);
    let pairs: Vec<_> = (0..50_u8)
        .map(|number| {
            let client = client(&forward);
            client.send(&[number]).unwrap();
            let stream = flow(&guest);
            assert_eq!(taken(&stream).unwrap(), [number]);
            (client, stream)
        })
        .collect();
    for (number, (_, stream)) in (0..50).zip(&pairs).rev() {
        give(stream, &[number, number]);
    }
    for (number, (client, stream)) in (0..).zip(&pairs) {
        assert_eq!(received(client), [number, number]);
        client.send(&[number]).unwrap();
        assert_eq!(taken(stream).unwrap(), [number]);
    }
}

#[test]
fn frames_in_pieces_and_together_are_split() {
    let guest = Guest::new();
    let forward = exposed(&guest);
    let client = client(&forward);
    client.send(b"x").unwrap();
    let (_, mut stream) = guest.streams.recv_timeout(TIMEOUT).unwrap();
    let datagrams = [&b"one"[..], b"", b"three"];
    let frames = datagrams.map(|bytes| Datagram(bytes.to_vec()).to_frame()).concat();
    let bytes = [Reply::Connected.to_frame(), frames].concat();
    for byte in &bytes {
        stream.write_all(&[*byte]).unwrap();
        thread::yield_now();
    }
    stream.write_all(&bytes[HEADER_SIZE..]).unwrap();
    for expected in datagrams.iter().chain(&datagrams) {
        assert_eq!(received(&client), *expected);
    }
}

#[test]
fn malformed_or_refusing_guest_loses_the_flow_and_not_the_forward() {
    let guest = Guest::new();
    let forward = exposed(&guest);
    let client = client(&forward);
    let good = UdpSocket::bind("127.0.0.1:0").unwrap();
    good.set_read_timeout(Some(TIMEOUT)).unwrap();
    good.send_to(b"good", forward.local_addr()).unwrap();
    let good_stream = flow(&guest);
    let failure = Failure { operation: "socket".into(), subject: "port 53".into(), errno: 24 };
    let oversized = Header { length: MAX_DATAGRAM + 1, kind: Datagram::KIND }.encode().to_vec();
    let connected = |bytes: &[u8]| [&Reply::Connected.to_frame(), bytes].concat();
    for reply in [
        Reply::Failed(failure).to_frame(),
        Reply::Done.to_frame(),
        Datagram(b"too early".to_vec()).to_frame(),
        Header { length: 1 << 20, kind: 0x42 }.encode().to_vec(),
        connected(&oversized),
        connected(&[0xFF; 8]),
        connected(&Segment::Data(b"x".to_vec()).to_frame()),
        connected(&Reply::Connected.to_frame()),
        Vec::new(),
    ] {
        client.send(b"hello").unwrap();
        let (_, mut stream) = guest.streams.recv_timeout(TIMEOUT).unwrap();
        assert_eq!(taken(&stream).unwrap(), b"hello");
        stream.write_all(&reply).unwrap();
        if reply.is_empty() {
            drop(stream);
        } else {
            assert_eq!(taken(&stream), None, "{reply:?}");
        }
    }
    forward.check().unwrap();
    give(&good_stream, b"still served");
    assert_eq!(received(&good), b"still served");
}

#[test]
fn guest_that_reads_nothing_blocks_no_other_flow_and_holds_bounded_memory() {
    const SIZE: usize = 8192;
    let guest = Guest::new();
    let forward = exposed(&guest);
    let (stalled, other) = (client(&forward), client(&forward));
    stalled.send(b"begin").unwrap();
    let full = flow(&guest);
    other.send(b"begin").unwrap();
    let free = flow(&guest);
    taken(&free).unwrap();
    for number in 0..2000_u32 {
        let mut bytes = vec![7; SIZE];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        stalled.send(&bytes).unwrap();
        // So few have room in the socket of the forward.
        if number % 8 == 0 {
            other.send(b"in between").unwrap();
            assert_eq!(taken(&free).unwrap(), b"in between");
        }
    }
    // The stalled flow's other direction stays open.
    give(&full, b"answer");
    assert_eq!(received(&stalled), b"answer");
    assert_eq!(taken(&full).unwrap(), b"begin");
    full.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut numbers = Vec::new();
    while let Some(bytes) = taken(&full) {
        assert_eq!(bytes.len(), SIZE);
        numbers.push(u32::from_le_bytes(bytes[..4].try_into().unwrap()));
    }
    assert!(numbers.is_sorted(), "{numbers:?}");
    // The queue, and what the socket's buffers take.
    let bound = (QUEUE + (1 << 20)) / SIZE;
    assert!((1..bound).contains(&numbers.len()), "{}", numbers.len());
    stalled.send(b"after").unwrap();
    full.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert_eq!(taken(&full).unwrap(), b"after");
}

#[test]
fn client_that_reads_nothing_blocks_no_other() {
    let guest = Guest::new();
    let forward = exposed(&guest);
    let (deaf, other) = (client(&forward), client(&forward));
    deaf.send(b"x").unwrap();
    let flood = flow(&guest);
    for _ in 0..500 {
        give(&flood, &[7; 8192]);
    }
    other.send(b"y").unwrap();
    let stream = flow(&guest);
    give(&stream, b"served");
    assert_eq!(received(&other), b"served");
    // A client that is gone harms nobody, either.
    drop(deaf);
    give(&flood, b"to nobody");
    give(&stream, b"again");
    assert_eq!(received(&other), b"again");
    forward.check().unwrap();
}

#[test]
fn idle_flows_close_and_used_ones_do_not() {
    let guest = Guest::new();
    let limits = Limits { flows: 10, idle: Duration::from_secs(2) };
    let forward = expose_within(&guest, limits);
    let (idle, used) = (client(&forward), client(&forward));
    let begin = std::time::Instant::now();
    idle.send(b"x").unwrap();
    let closing = flow(&guest);
    used.send(b"x").unwrap();
    let open = flow(&guest);
    assert!(taken(&closing).is_some() && taken(&open).is_some());
    closing.set_nonblocking(true).unwrap();
    // Datagrams of either side keep a flow.
    let mut byte = [0];
    while !matches!((&closing).read(&mut byte), Ok(0)) {
        assert!(begin.elapsed() < TIMEOUT);
        used.send(b"ping").unwrap();
        assert_eq!(taken(&open).unwrap(), b"ping");
        give(&open, b"pong");
        assert_eq!(received(&used), b"pong");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(begin.elapsed() >= limits.idle, "{:?}", begin.elapsed());
    used.send(b"still open").unwrap();
    assert_eq!(taken(&open).unwrap(), b"still open");
    // The client that was idle gets another flow.
    idle.send(b"back").unwrap();
    assert_eq!(taken(&flow(&guest)).unwrap(), b"back");
}

#[test]
fn client_over_the_limit_replaces_the_oldest_flow_without_an_answer() {
    let guest = Guest::new();
    let forward = expose_within(&guest, FEW);
    let open = || {
        let client = client(&forward);
        client.send(b"x").unwrap();
        let stream = flow(&guest);
        assert!(taken(&stream).is_some());
        (client, stream)
    };
    let (answered, unanswered, newer) = (open(), open(), open());
    give(&answered.1, b"yes");
    assert_eq!(received(&answered.0), b"yes");
    let fourth = open();
    assert_eq!(taken(&unanswered.1), None);
    let fifth = open();
    assert_eq!(taken(&newer.1), None);
    for (client, stream) in [&answered, &fourth, &fifth] {
        client.send(b"kept").unwrap();
        assert_eq!(taken(stream).unwrap(), b"kept");
    }
}

#[test]
fn flows_share_the_machines_limit_with_connections() {
    let guest = Guest::new();
    let forward = exposed(&guest);
    let held: Vec<_> = (0..130).map(|_| guest.dialer.slot()).collect();
    let client = client(&forward);
    client.send(b"dropped").unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(guest.state.dials.load(Ordering::Relaxed), 0);
    drop(held);
    client.send(b"served").unwrap();
    assert_eq!(taken(&flow(&guest)).unwrap(), b"served");
}

#[test]
fn stream_that_cannot_be_opened_drops_the_datagram_only() {
    let guest = Guest::new();
    let forward = exposed(&guest);
    let client = client(&forward);
    guest.state.refusals.store(2, Ordering::Relaxed);
    for text in [b"1", b"2", b"3"] {
        client.send(text).unwrap();
    }
    assert_eq!(taken(&flow(&guest)).unwrap(), b"3");
}

#[test]
fn dropped_forward_closes_its_flows_and_frees_the_port() {
    let guest = Guest::new();
    let forward = exposed(&guest);
    let address = forward.local_addr();
    let client = client(&forward);
    client.send(b"x").unwrap();
    let stream = flow(&guest);
    assert!(taken(&stream).is_some());
    let Err(Error::Port { source: PortError::Listen { address: named, source } }) =
        UdpPort::bind(address, 53)
    else {
        panic!("bound twice")
    };
    assert_eq!((named, source.kind()), (address.to_string(), io::ErrorKind::AddrInUse));
    forward.close().unwrap();
    assert_eq!(taken(&stream), None);
    UdpPort::bind(address, 53).unwrap();
}

#[test]
fn closed_dialer_closes_its_forwards() {
    let guest = Guest::new();
    let forward = exposed(&guest);
    let client = client(&forward);
    client.send(b"x").unwrap();
    let stream = flow(&guest);
    assert!(taken(&stream).is_some());
    guest.dialer.close();
    assert_eq!(taken(&stream), None);
    eventually("end", || forward.check().is_err());
    assert!(matches!(forward.close(), Err(Error::Port { source: PortError::Closed { .. } })));
}

#[test]
fn exited_guest_closes_the_forward() {
    for is_open in [false, true] {
        let guest = Guest::new();
        let forward = exposed(&guest);
        let client = client(&forward);
        let stream = is_open.then(|| {
            client.send(b"x").unwrap();
            flow(&guest)
        });
        guest.state.has_ended.store(true, Ordering::Relaxed);
        drop(stream);
        // A refused datagram is reported to the next call.
        let _ = client.send(b"y");
        eventually("end", || forward.check().is_err());
    }
}

#[test]
fn port_zero_of_the_guest_is_refused() {
    let error = UdpPort::bind(([127, 0, 0, 1], 0).into(), 0).unwrap_err();
    let Error::Port { source: PortError::Listen { source, .. } } = error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn ipv6_address_can_be_bound() {
    let guest = Guest::new();
    let port = UdpPort::bind((Ipv6Addr::LOCALHOST, 0).into(), 53).unwrap();
    let forward = port.serve(&guest.dialer).unwrap();
    let client = client(&forward);
    client.send(b"six").unwrap();
    let stream = flow(&guest);
    assert_eq!(taken(&stream).unwrap(), b"six");
    give(&stream, b"back");
    assert_eq!(received(&client), b"back");
}

/// Exposes a port of a guest that answers the first request with these bytes, and closes the stream.
fn answered(bytes: &[u8]) -> Result<UdpForward, Error> {
    let guest = Guest::new();
    let address = ([127, 0, 0, 1], 0).into();
    thread::scope(|scope| {
        let exposed = scope.spawn(|| expose(&guest.machine, &guest.dialer, address, 53));
        let (request, mut stream) = guest.streams.recv_timeout(TIMEOUT).unwrap();
        assert_eq!(request, Request::Datagrams { port: 53 });
        stream.write_all(bytes).unwrap();
        drop(stream);
        exposed.join().unwrap()
    })
}

#[test]
fn agent_without_udp_is_reported_by_the_call() {
    let error = answered(b"").unwrap_err();
    assert!(matches!(error, Error::Port { source: PortError::NoUdp { port: 53 } }));
    let text = "the snapshot's agent cannot serve the UDP port 53; bake the image again";
    assert_eq!(error.to_string(), text);
    let failure = Failure { operation: "socket".into(), subject: "port 53".into(), errno: 24 };
    let error = answered(&Reply::Failed(failure).to_frame()).unwrap_err();
    assert!(matches!(error, Error::Port { source: PortError::Guest { port: 53, .. } }));
    let error = answered(&Reply::Done.to_frame()).unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    answered(&Reply::Connected.to_frame()).unwrap();
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    let guest = Guest::new();
    let port = UdpPort::bind(([0, 0, 0, 0], 0).into(), 53).unwrap();
    let forward = port.serve(&guest.dialer).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    // One client is two flows, if it asks at two addresses.
    for at in ["127.0.0.2", "127.0.0.3"] {
        client.connect((at, forward.local_addr().port())).unwrap();
        client.send(at.as_bytes()).unwrap();
        let stream = flow(&guest);
        assert_eq!(taken(&stream).unwrap(), at.as_bytes());
        give(&stream, b"answer");
        assert_eq!(received(&client), b"answer");
    }
}
