//! Flows of a whole server, with the test as host and as guest.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use supermachine_formats::wire::{
    Datagram, HEADER_SIZE, Header, MAX_CHUNK, MAX_DATAGRAM, Message, Reply, Request, Segment,
};

use super::super::tests::{Guest, eventually, read_frame};

const TIMEOUT: Duration = Duration::from_secs(60);

fn server() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// A port that nothing listens on.
fn closed_port() -> u16 {
    server().1
}

fn flow(guest: &Guest, port: u16) -> UnixStream {
    let mut host = guest.send(&Request::Datagrams { port });
    assert_eq!(read_frame(&mut host), Some(Reply::Connected));
    host
}

fn send(mut host: &UnixStream, bytes: &[u8]) {
    host.write_all(&Datagram(bytes.to_vec()).to_frame()).unwrap();
}

fn received(mut host: &UnixStream) -> Vec<u8> {
    read_frame::<Datagram>(&mut host).unwrap().0
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 1 << 16];
    let (count, sender) = socket.recv_from(&mut bytes).unwrap();
    bytes.truncate(count);
    (bytes, sender)
}

fn is_closed(mut host: &UnixStream) -> bool {
    matches!(host.read(&mut [0]), Ok(0) | Err(_))
}

#[test]
fn datagrams_keep_their_bounds_in_both_directions() {
    let guest = Guest::plain();
    let (socket, port) = server();
    let host = flow(&guest, port);
    for length in [5, 0, 1, 1400, MAX_DATAGRAM, 0] {
        let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        send(&host, &bytes);
        let (found, sender) = receive(&socket);
        assert!(found == bytes, "{length}");
        socket.send_to(&bytes, sender).unwrap();
        assert!(received(&host) == bytes, "{length}");
    }
}

#[test]
fn datagrams_may_follow_the_request_directly() {
    let guest = Guest::plain();
    let (socket, port) = server();
    let frames = [b"one", b"two"].map(|bytes| Datagram(bytes.to_vec()).to_frame()).concat();
    let mut host = guest.send_bytes(&[Request::Datagrams { port }.to_frame(), frames].concat());
    assert_eq!(receive(&socket).0, b"one");
    assert_eq!(receive(&socket).0, b"two");
    assert_eq!(read_frame(&mut host), Some(Reply::Connected));
}

#[test]
fn each_flow_has_its_own_source_and_gets_its_own_answers() {
    let guest = Guest::plain();
    let (socket, port) = server();
    let flows = [flow(&guest, port), flow(&guest, port)];
    let senders = [0, 1].map(|number| {
        send(&flows[number], &[b'a' + number as u8]);
        let (bytes, sender) = receive(&socket);
        assert_eq!(bytes, [b'a' + number as u8]);
        sender
    });
    assert_ne!(senders[0], senders[1]);
    for number in [1, 0] {
        socket.send_to(&[b'A' + number as u8], senders[number]).unwrap();
    }
    for (number, host) in (0..).zip(&flows) {
        assert_eq!(received(host), [b'A' + number]);
        send(host, b"again");
        assert_eq!(receive(&socket), (b"again".to_vec(), senders[usize::from(number)]));
    }
}

#[test]
fn stranger_in_the_guest_does_not_reach_the_host() {
    let guest = Guest::plain();
    let (socket, port) = server();
    let host = flow(&guest, port);
    send(&host, b"hello");
    let (_, sender) = receive(&socket);
    server().0.send_to(b"from a stranger", sender).unwrap();
    socket.send_to(b"answer", sender).unwrap();
    assert_eq!(received(&host), b"answer");
}

#[test]
fn closed_port_neither_closes_the_flow_nor_costs_time() {
    let guest = Guest::plain();
    let port = closed_port();
    let host = flow(&guest, port);
    let descriptors = guest.descriptors();
    for _ in 0..100 {
        send(&host, b"nobody receives this");
    }
    let other = flow(&guest, port);
    eventually("refused", || guest.descriptors() == descriptors + 2);
    let begin = guest.cpu_ticks();
    std::thread::sleep(Duration::from_millis(500));
    assert!(guest.cpu_ticks() <= begin + 5, "the agent spins");
    let socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    for host in [&host, &other] {
        send(host, b"now");
        let (bytes, sender) = receive(&socket);
        assert_eq!(bytes, b"now");
        socket.send_to(b"yes", sender).unwrap();
        assert_eq!(received(host), b"yes");
    }
}

#[test]
fn port_that_closes_and_opens_again_is_found() {
    let guest = Guest::plain();
    let (socket, port) = server();
    let host = flow(&guest, port);
    send(&host, b"1");
    receive(&socket);
    drop(socket);
    send(&host, b"2");
    send(&host, b"3");
    // The agent has taken both once it has closed the socket that it tried the other address with.
    let other = flow(&guest, port);
    drop(other);
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, port)).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    eventually("found", || {
        send(&host, b"4");
        socket.set_nonblocking(true).unwrap();
        socket.recv(&mut [0; 8]).is_ok()
    });
}

#[test]
fn port_on_ipv6_only_is_found_by_the_first_datagram() {
    let guest = Guest::plain();
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let host = flow(&guest, socket.local_addr().unwrap().port());
    let mut senders = Vec::new();
    for text in [&b"six"[..], b"again"] {
        send(&host, text);
        let (bytes, sender) = receive(&socket);
        assert_eq!(bytes, text);
        socket.send_to(text, sender).unwrap();
        assert_eq!(received(&host), text);
        senders.push(sender);
    }
    assert_eq!(senders[0], senders[1]);
}

#[test]
fn closed_stream_closes_its_socket() {
    let guest = Guest::plain();
    let (socket, port) = server();
    let before = guest.descriptors();
    let flows: Vec<_> = (0..100).map(|_| flow(&guest, port)).collect();
    assert_eq!(guest.descriptors(), before + 200);
    for host in &flows {
        send(host, b"x");
        receive(&socket);
    }
    drop(flows);
    eventually("closed", || guest.descriptors() == before);
}

#[test]
fn malformed_frame_closes_its_flow_and_no_other() {
    let guest = Guest::plain();
    let (socket, port) = server();
    let good = flow(&guest, port);
    let oversized = Datagram(vec![0; MAX_DATAGRAM + 1]).to_frame();
    let segment = Segment::Data(b"x".to_vec()).to_frame();
    let huge = [0xFF, 0xFF, 0xFF, 0xFF, 0x53, 0, 0, 0].to_vec();
    for bytes in [oversized, segment, huge, Request::Datagrams { port }.to_frame()] {
        let mut host = flow(&guest, port);
        // The agent may close the stream before it has taken everything.
        let _ = host.write_all(&bytes);
        assert!(is_closed(&host), "{:?}", Header::decode(*bytes.first_chunk().unwrap()));
    }
    send(&good, b"still here");
    assert_eq!(receive(&socket).0, b"still here");
}

#[test]
fn host_that_reads_nothing_blocks_no_other_flow_and_no_program() {
    let guest = Guest::plain();
    let (socket, port) = server();
    let (stalled, other) = (flow(&guest, port), flow(&guest, port));
    send(&stalled, b"x");
    let (_, sender) = receive(&socket);
    for _ in 0..2000 {
        socket.send_to(&[7; 8192], sender).unwrap();
    }
    // Its own direction stays open, too, for many datagrams in one piece.
    let frames = (0..100).flat_map(|number| Datagram(vec![number]).to_frame());
    (&stalled).write_all(&frames.collect::<Vec<_>>()).unwrap();
    for number in 0..100 {
        assert_eq!(receive(&socket).0, [number]);
    }
    send(&other, b"y");
    let (_, sender) = receive(&socket);
    socket.send_to(b"served", sender).unwrap();
    assert_eq!(received(&other), b"served");
    // What arrives of the flood is whole.
    let mut stalled = stalled;
    stalled.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut count = 0;
    loop {
        let mut header = [0; HEADER_SIZE];
        match stalled.read_exact(&mut header) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            result => result.unwrap(),
        }
        let length = Datagram::check(Header::decode(header).unwrap()).unwrap();
        let mut payload = vec![0; length];
        stalled.read_exact(&mut payload).unwrap();
        assert!(payload == [7; 8192]);
        count += 1;
    }
    assert!((1..2000).contains(&count), "{count}");
}

#[test]
fn half_a_frame_holds_up_no_other_flow() {
    let guest = Guest::plain();
    let (socket, port) = server();
    let (mut slow, other) = (flow(&guest, port), flow(&guest, port));
    let frame = Datagram(vec![9; MAX_CHUNK - 100]).to_frame();
    let (head, rest) = frame.split_at(3);
    slow.write_all(head).unwrap();
    send(&other, b"first");
    assert_eq!(receive(&socket).0, b"first");
    slow.write_all(rest).unwrap();
    assert_eq!(receive(&socket).0.len(), MAX_CHUNK - 100);
}

#[test]
fn restore_closes_every_flow() {
    let mut guest = Guest::plain();
    let (_socket, port) = server();
    let flows = [flow(&guest, port), flow(&guest, port)];
    guest.resume();
    for host in &flows {
        assert!(is_closed(host));
    }
    // Outside a machine the resume fails, and so does every later request.
    let mut host = guest.send(&Request::Datagrams { port });
    assert!(matches!(read_frame(&mut host), Some(Reply::Failed(_))));
}
