//! Flows of a guest to servers on the loopback interface, and attempts to reach what is forbidden.

mod guest;
mod questions;

use std::io::{ErrorKind, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::sync::{Arc, Mutex};
use std::thread;

use smoltcp::socket::tcp::State;
use smoltcp::wire::IpProtocol;

use self::guest::{Guest, PATIENCE};
use super::{Stack, StackStats};
use crate::packet::{datagram, read_packet};
use crate::segment::{GATEWAY_V4, GUEST_V4, GUEST_V6, HOST_V4, HOST_V6};
use crate::{Decision, Network};

fn started(network: &Network) -> (Stack, Guest) {
    let (stack, link) = Stack::start(network).unwrap();
    (stack, Guest::new(link))
}

/// A listener, and a network that leads to it.
fn served() -> (TcpListener, Network, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let network = Network::none().allow(format!("tcp:host:{port}").parse().unwrap());
    (listener, network, (HOST_V4, port).into())
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends everything back, until the end.
fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => stream.write_all(&buffer[..count]).unwrap(),
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x5EED_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u8::try_from(state & 255).unwrap()
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn connection_carries_bytes_both_ways_and_ends_in_halves() {
    let (listener, network, to) = served();
    let server = thread::spawn(move || (0..2).for_each(|_| echo(accept(&listener))));
    let (stack, mut guest) = started(&network);
    let bytes = pattern(4 << 20);
    for to in [to, (HOST_V6, to.port()).into()] {
        let handle = guest.connected(to);
        let received = guest.exchange(handle, &bytes, bytes.len());
        assert!(received == bytes, "{to}");
        // The guest ends first and still receives: the server ends when it has seen that.
        guest.exchange(handle, b"the last", 0);
        guest.socket(handle).close();
        assert_eq!(guest.read_to_end(handle), b"the last");
        guest.until("it is over", |_| (stack.stats().connections == 0).then_some(()));
    }
    server.join().unwrap();
    assert_eq!(stack.stats(), StackStats { connections: 0, sockets_opened: 2, refused: 0 });
}

#[test]
fn server_that_ends_first_still_receives() {
    let (listener, network, to) = served();
    let (_stack, mut guest) = started(&network);
    let handle = guest.connected(to);
    let mut server = accept(&listener);
    server.write_all(b"hello").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.read_to_end(handle), b"hello");
    guest.exchange(handle, b"goodbye", 0);
    guest.socket(handle).close();
    let mut heard = Vec::new();
    let reader = thread::spawn(move || server.read_to_end(&mut heard).map(|_| heard));
    guest.until("it ends", |_| reader.is_finished().then_some(()));
    assert_eq!(reader.join().unwrap().unwrap(), b"goodbye");
}

#[test]
fn closed_port_is_refused_at_once() {
    let (listener, network, to) = served();
    drop(listener);
    let (stack, mut guest) = started(&network);
    let handle = guest.connect(to);
    assert_eq!(guest.until("an answer", |guest| guest.settled(handle)), State::Closed);
    // The guest may hear of it before the stack has counted.
    guest.until("it is over", |_| (stack.stats().connections == 0).then_some(()));
}

#[test]
fn resets_pass_both_ways() {
    let (listener, network, to) = served();
    let (stack, mut guest) = started(&network);
    let handle = guest.connected(to);
    let mut server = accept(&listener);
    guest.socket(handle).abort();
    guest.until("it is over", |_| (stack.stats().connections == 0).then_some(()));
    let error = server.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    let handle = guest.connected(to);
    let server = accept(&listener);
    socket2::SockRef::from(&server).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(server);
    let is_closed =
        |guest: &mut Guest| (guest.socket(handle).state() == State::Closed).then_some(());
    guest.until("the guest learns of it", is_closed);
}

#[test]
fn slow_reader_holds_the_sender_back() {
    let (listener, network, to) = served();
    let (_stack, mut guest) = started(&network);
    // To the host.
    let handle = guest.connected(to);
    let mut server = accept(&listener);
    let bytes = pattern(64 << 20);
    let (mut sent, mut still) = (0, 0);
    while still < 1000 {
        guest.step();
        let socket = guest.socket(handle);
        let count = if socket.can_send() { socket.send_slice(&bytes[sent..]).unwrap() } else { 0 };
        sent += count;
        still = if count == 0 { still + 1 } else { 0 };
        thread::sleep(std::time::Duration::from_micros(50));
    }
    assert!(sent < bytes.len(), "all of it went nowhere");
    let expected = bytes[..sent].to_vec();
    let reader = thread::spawn(move || {
        let mut heard = vec![0; expected.len()];
        server.read_exact(&mut heard).unwrap();
        (server, heard == expected)
    });
    guest.until("it is read", |_| reader.is_finished().then_some(()));
    let (server, is_right) = reader.join().unwrap();
    assert!(is_right);
    // To the guest.
    server.set_nonblocking(true).unwrap();
    let mut server = server;
    let (mut sent, mut still) = (0, 0);
    while still < 200 {
        guest.step();
        match server.write(&bytes[sent..]) {
            Ok(count) => (sent, still) = (sent + count, 0),
            Err(_) => still += 1,
        }
        thread::sleep(std::time::Duration::from_micros(200));
    }
    assert!(sent < bytes.len(), "all of it went nowhere");
    drop(server);
    assert!(guest.read_to_end(handle) == bytes[..sent]);
}

#[test]
fn hundreds_of_connections_at_once() {
    const COUNT: usize = 400;
    let (listener, network, to) = served();
    let server = thread::spawn(move || {
        let streams: Vec<_> = (0..COUNT).map(|_| accept(&listener)).collect();
        streams.into_iter().for_each(|mut stream| {
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(&word).unwrap();
        });
    });
    let (stack, mut guest) = started(&network);
    let handles: Vec<_> = (0..COUNT).map(|_| guest.connect(to)).collect();
    guest.until("all are made", |guest| {
        let is_made = |handle: &_| guest.settled(*handle) == Some(State::Established);
        handles.iter().all(is_made).then_some(())
    });
    assert_eq!(stack.stats().connections, COUNT);
    for (number, handle) in (0_u32..).zip(&handles) {
        guest.socket(*handle).send_slice(&number.to_le_bytes()).unwrap();
    }
    for (number, handle) in (0_u32..).zip(&handles) {
        assert_eq!(guest.read_to_end(*handle), number.to_le_bytes());
        guest.socket(*handle).close();
    }
    guest.until("all are over", |_| (stack.stats().connections == 0).then_some(()));
    server.join().unwrap();
}

#[test]
fn connection_beyond_the_limit_is_refused() {
    let (listener, network, to) = served();
    let (stack, mut guest) = started(&network.with_max_connections(2));
    let first = guest.connected(to);
    guest.connected(to);
    let third = guest.connect(to);
    let answer = guest.other();
    assert_eq!(read_packet(&answer).unwrap().payload[..2], [3, 1], "host unreachable");
    guest.socket(third).abort();
    guest.socket(first).abort();
    guest.until("there is room", |_| (stack.stats().connections == 1).then_some(()));
    guest.connected(to);
    drop(listener);
}

#[test]
fn new_link_has_no_flows() {
    let (listener, network, to) = served();
    let (stack, mut guest) = started(&network);
    let handle = guest.connected(to);
    let mut server = accept(&listener);
    guest.plug(stack.renew().unwrap());
    let error = server.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // The guest that was not reset learns it when it next sends.
    guest.socket(handle).send_slice(b"?").unwrap();
    guest.until("it is reset", |guest| {
        (guest.socket(handle).state() == State::Closed).then_some(())
    });
    guest.connected(to);
    drop(stack);
    let mut server = accept(&listener);
    let error = server.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn datagrams_pass_both_ways() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let network = Network::none().allow(format!("udp:host:{port}").parse().unwrap());
    let (stack, mut guest) = started(&network);
    for (from, to) in
        [(IpAddr::from(GUEST_V4), IpAddr::from(HOST_V4)), (GUEST_V6.into(), HOST_V6.into())]
    {
        for length in [0, 1, 1472, 9000, 60_000] {
            let (from, to) = ((from, 4000).into(), (to, port).into());
            let sent = pattern(length);
            guest.send_packet(&datagram(from, to, &sent).unwrap());
            let mut heard = vec![0; 65_536];
            let (count, flow) = server.recv_from(&mut heard).unwrap();
            assert!(heard[..count] == sent, "{length}");
            server.send_to(&heard[..count], flow).unwrap();
            let packet = guest.other();
            let answer = read_packet(&packet).unwrap().datagram().unwrap();
            assert_eq!((answer.source, answer.destination), (to, from));
            assert!(answer.payload == sent, "{length}");
        }
    }
    assert_eq!(stack.stats().sockets_opened, 2);
}

#[test]
fn gateway_and_host_answer_echoes() {
    let (_stack, mut guest) = started(&Network::none());
    for to in [GATEWAY_V4, HOST_V4] {
        let mut packet = datagram((GUEST_V4, 1).into(), (to, 1).into(), b"12345678").unwrap();
        // An echo request in place of the datagram.
        packet[9] = 1;
        packet[20..28].copy_from_slice(&[8, 0, 0, 0, 0, 1, 0, 2]);
        fill_checksum(&mut packet, 10..12, 0..20);
        fill_checksum(&mut packet, 22..24, 20..36);
        guest.send_packet(&packet);
        let answer = guest.other();
        let answer = read_packet(&answer).unwrap();
        assert_eq!((answer.source, answer.protocol), (to.into(), IpProtocol::Icmp));
        assert_eq!((answer.payload[0], &answer.payload[8..]), (0, &b"12345678"[..]));
    }
}

fn fill_checksum(bytes: &mut [u8], place: std::ops::Range<usize>, covered: std::ops::Range<usize>) {
    bytes[place.clone()].fill(0);
    let words = bytes[covered].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    bytes[place].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn thousands_of_forbidden_flows_open_no_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&seen);
    let network =
        Network::public().allow("tcp:host:1".parse().unwrap()).on_decision(move |decision| {
            assert!(matches!(decision, Decision::Flow { is_allowed: false, .. }), "{decision}");
            *counted.lock().unwrap() += 1;
        });
    let (stack, mut guest) = started(&network);
    let forbidden: Vec<IpAddr> = [
        "127.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "198.18.0.3",
        "198.18.0.77",
        "198.51.100.1",
        "240.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::1",
        "2001::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "fd73:6d00::3",
        "fd73:6d00::77",
        "::",
    ]
    .iter()
    .map(|text| text.parse().unwrap())
    .collect();
    let mut count = 0;
    for round in 0..100 {
        for address in &forbidden {
            let from: IpAddr = if address.is_ipv4() { GUEST_V4.into() } else { GUEST_V6.into() };
            let to = SocketAddr::from((*address, port));
            let from = SocketAddr::from((from, 10_000 + round));
            guest.send_packet(&datagram(from, to, b"?").unwrap());
            guest.send_packet(&syn(from, to));
            count += 2;
            if count % 40 == 0 {
                guest.forget_others();
                guest.step();
            }
        }
    }
    guest.until("all are refused", |_| (stack.stats().refused == count).then_some(()));
    assert_eq!(stack.stats(), StackStats { connections: 0, sockets_opened: 0, refused: count });
    assert_eq!(*seen.lock().unwrap(), count);
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// A request for a connection.
fn syn(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut packet = datagram(from, to, &[0; 12]).unwrap();
    let start = packet.len() - 20;
    if from.is_ipv4() {
        packet[9] = 6;
        fill_checksum(&mut packet, 10..12, 0..20);
    } else {
        packet[6] = 6;
    }
    let segment = &mut packet[start..];
    segment[4..20].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    packet
}

#[test]
fn refusal_names_its_reason() {
    let (_stack, mut guest) = started(&Network::none());
    let to = SocketAddr::from(([1, 2, 3, 4], 80));
    for packet in
        [syn((GUEST_V4, 1000).into(), to), datagram((GUEST_V4, 1000).into(), to, b"x").unwrap()]
    {
        guest.send_packet(&packet);
        let answer = guest.other();
        let answer = read_packet(&answer).unwrap();
        assert_eq!(answer.payload[..2], [3, 13], "administratively prohibited");
        // The ports of what was refused.
        assert_eq!(answer.payload[28..32], [3, 0xe8, 0, 80]);
    }
    let to = SocketAddr::from((Ipv6Addr::from([0x2600; 8]), 80));
    guest.send_packet(&syn((GUEST_V6, 1000).into(), to));
    let answer = guest.other();
    assert_eq!(read_packet(&answer).unwrap().payload[..2], [1, 1]);
}

#[test]
fn guest_without_an_address_learns_its_own() {
    let (_stack, mut guest) = started(&Network::none());
    let client = [&[1, 1, 6, 0, 1, 2, 3, 4][..], &[0; 20], &[2, 0, 0, 0, 0, 7], &[0; 202]];
    let discover = [&client.concat()[..], &[99, 130, 83, 99, 53, 1, 1, 255]].concat();
    let from = (Ipv4Addr::UNSPECIFIED, 68).into();
    let packet = datagram(from, (Ipv4Addr::BROADCAST, 67).into(), &discover).unwrap();
    guest.send_packet(&packet);
    let answer = guest.other();
    let answer = read_packet(&answer).unwrap().datagram().unwrap();
    assert_eq!(
        (answer.source, answer.destination),
        ((GATEWAY_V4, 67).into(), (GUEST_V4, 68).into())
    );
    assert_eq!(answer.payload[16..20], GUEST_V4.octets());
}

#[test]
fn packets_of_other_senders_are_dropped() {
    let (listener, network, to) = served();
    let (stack, mut guest) = started(&network);
    for from in [[198, 18, 0, 9], [10, 0, 0, 1], [198, 18, 0, 3], [127, 0, 0, 1]] {
        guest.send_packet(&syn((Ipv4Addr::from(from), 1000).into(), to));
    }
    guest.connected(to);
    assert_eq!(stack.stats().sockets_opened, 1);
    drop(listener);
}

/// A name server: `good.test` is public, `bad.test` leads to a private address.
fn name_server() -> SocketAddr {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((count, from)) = server.recv_from(&mut buffer) {
            let query = buffer[..count].to_ascii_lowercase();
            let ip = if query.windows(5).any(|word| word == b"\x04good") {
                [9, 9, 9, 9]
            } else {
                [10, 0, 0, 1]
            };
            let mut answer = buffer[..count].to_vec();
            answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(ip);
            server.send_to(&answer, from).unwrap();
        }
    });
    address
}

/// A question for the IPv4 address of a name.
fn query(name: &str) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// The response code and the address for a name.
fn resolve(guest: &mut Guest, name: &str) -> (u8, Option<[u8; 4]>) {
    let query = query(name);
    let (from, to) = ((GUEST_V4, 5353).into(), (GATEWAY_V4, 53).into());
    guest.send_packet(&datagram(from, to, &query).unwrap());
    let packet = guest.other();
    let answer = read_packet(&packet).unwrap().datagram().unwrap();
    assert_eq!((answer.source, answer.destination), (to, from));
    let bytes = answer.payload;
    assert_eq!(bytes[..2], [0x12, 0x34]);
    let address = (bytes[7] == 1).then(|| bytes[bytes.len() - 4..].try_into().unwrap());
    (bytes[3] & 15, address)
}

#[test]
fn name_opens_the_address_that_it_resolves_to() {
    let (listener, _, to) = served();
    let public = IpAddr::from([9, 9, 9, 9]);
    let network = Network::none()
        .allow(format!("*.good.test:{}", to.port()).parse().unwrap())
        .allow("bad.test".parse().unwrap())
        .with_resolvers([name_server()])
        .with_redirect(public, Ipv4Addr::LOCALHOST.into());
    let (stack, mut guest) = started(&network);
    let to = SocketAddr::from((public, to.port()));
    // Before it is resolved.
    let early = guest.connect(to);
    guest.other();
    guest.socket(early).abort();
    assert_eq!(stack.stats().sockets_opened, 0);
    assert_eq!(resolve(&mut guest, "www.Good.test"), (0, Some([9, 9, 9, 9])));
    guest.connected(to);
    // Another port of the same address.
    let other = guest.connect((public, 1).into());
    guest.other();
    guest.socket(other).abort();
    // Names that are not allowed, and one that leads to a private address.
    let before = stack.stats().sockets_opened;
    assert_eq!(resolve(&mut guest, "good.test"), (3, None));
    assert_eq!(resolve(&mut guest, "evil.test"), (3, None));
    assert_eq!(resolve(&mut guest, "host.supermachine.internal"), (3, None));
    assert_eq!(stack.stats().sockets_opened, before);
    assert_eq!(resolve(&mut guest, "bad.test"), (3, None));
    drop(listener);
}

#[test]
fn host_has_a_name_where_a_rule_names_a_port() {
    let (_listener, network, _) = served();
    let (_stack, mut guest) = started(&network.with_resolvers([]));
    assert_eq!(resolve(&mut guest, "host.supermachine.internal"), (0, Some(HOST_V4.octets())));
}

#[test]
fn name_server_that_is_gone_gives_an_error() {
    let network = Network::public().with_resolvers([SocketAddr::from(([127, 0, 0, 1], 1))]);
    let (_stack, mut guest) = started(&network);
    assert_eq!(resolve(&mut guest, "example.com"), (2, None));
}

#[test]
fn rate_limits_both_directions() {
    const RATE: u64 = 4 << 20;
    let (listener, network, to) = served();
    let server = thread::spawn(move || echo(accept(&listener)));
    let (_stack, mut guest) = started(&network.with_max_rate(RATE.try_into().unwrap()));
    let handle = guest.connected(to);
    let bytes = pattern(4 << 20);
    let began = std::time::Instant::now();
    assert!(guest.exchange(handle, &bytes, bytes.len()) == bytes);
    let took = began.elapsed().as_secs_f64();
    // A burst is free. Both ways at once take as long as one.
    assert!((0.9..10.0).contains(&took), "{took} s");
    guest.socket(handle).close();
    guest.read_to_end(handle);
    server.join().unwrap();
}

#[test]
fn spent_bytes_end_all_flows() {
    let (listener, network, to) = served();
    let spent = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&spent);
    let network = network.with_max_bytes(1 << 20).on_decision(move |decision| {
        if let Decision::Spent { bytes } = decision {
            *counted.lock().unwrap() += bytes;
        }
    });
    let (stack, mut guest) = started(&network);
    let handle = guest.connected(to);
    let mut server = accept(&listener);
    server.set_nonblocking(true).unwrap();
    let mut heard = vec![0; 100_000];
    guest.until("it is spent", |guest| {
        let socket = guest.socket(handle);
        if socket.can_send() {
            socket.send_slice(&[0; 10_000]).unwrap();
        }
        while server.read(&mut heard).is_ok_and(|count| count > 0) {}
        (*spent.lock().unwrap() > 0).then_some(())
    });
    assert_eq!(*spent.lock().unwrap(), 1 << 20, "said once");
    let is_closed =
        |guest: &mut Guest| (guest.socket(handle).state() == State::Closed).then_some(());
    guest.until("the guest learns of it", is_closed);
    let opened = stack.stats().sockets_opened;
    let again = guest.connect(to);
    assert_eq!(read_packet(&guest.other()).unwrap().payload[..2], [3, 13]);
    guest.socket(again).abort();
    assert_eq!((stack.stats().sockets_opened, stack.stats().connections), (opened, 0));
    // Another life of the machine has its own.
    guest.plug(stack.renew().unwrap());
    guest.connected(to);
}

#[test]
fn random_frames_never_stop_the_stack() {
    let (listener, network, to) = served();
    let (stack, mut guest) = started(&network.with_resolvers([]));
    let noise = pattern(1 << 20);
    let mut at = 0;
    let mut next = |count: usize| {
        at = (at + count + 7) % (noise.len() - 70_000);
        noise[at..at + count].to_vec()
    };
    let questions = [(GATEWAY_V4, 53), (HOST_V4, to.port())];
    for round in 0..20_000_usize {
        match round % 4 {
            0 => guest.send_frame(&next(round % 1600)),
            1 => guest.send_packet(&[&[0x45][..], &next(round % 300)].concat()),
            2 => guest.send_packet(&[&[0x60][..], &next(round % 300)].concat()),
            _ => {
                // A whole packet with some bytes changed.
                let (ip, port) = questions[round / 4 % 2];
                let (from, to) = ((GUEST_V4, 999).into(), (ip, port).into());
                let mut packet = datagram(from, to, &next(round % 90)).unwrap();
                let change = next(3);
                let place = usize::from(change[0]) % packet.len();
                packet[place] = change[1];
                if round % 8 == 3 {
                    packet[9] = [1, 6, 17, 58][usize::from(change[2]) % 4];
                }
                fill_checksum(&mut packet, 10..12, 0..20);
                guest.send_packet(&packet);
            }
        }
        if round % 20 == 0 {
            guest.forget_others();
            guest.step();
        }
    }
    // Still there.
    guest.connected(to);
    assert!(stack.stats().connections > 0);
    drop(listener);
}
