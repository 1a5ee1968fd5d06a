//! Connections and listeners of a whole server, with the test as host and as guest.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use supermachine_formats::wire::{MAX_CHUNK, Message, Reply, Request, Segment};

use super::super::tests::{Guest, eventually, read_frame};

const TIMEOUT: Duration = Duration::from_secs(60);

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A connection to a port that is listened on: the host's side and the guest's.
fn connected(guest: &Guest, framed: bool) -> (UnixStream, TcpStream) {
    let (listener, port) = listener();
    let mut host = guest.send(&Request::Connect { port, framed });
    assert_eq!(read_frame(&mut host), Some(Reply::Connected));
    let (socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    (host, socket)
}

fn data(bytes: &[u8]) -> Vec<u8> {
    Segment::Data(bytes.to_vec()).to_frame()
}

fn read_to_end(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Whether the agent has only ended its direction, not closed the stream.
fn is_half_closed(mut host: &UnixStream) -> bool {
    host.write(&[]).is_ok()
}

fn failed(host: &mut UnixStream) -> (String, String, u16) {
    let Some(Reply::Failed(failure)) = read_frame(host) else { panic!("no failure") };
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    (failure.operation.to_string(), failure.subject, failure.errno)
}

#[test]
fn each_direction_carries_bytes_and_closes_alone() {
    let guest = Guest::plain();
    for framed in [true, false] {
        let (mut host, mut socket) = connected(&guest, framed);
        if framed {
            host.write_all(&[data(b"to the "), data(b"guest"), Segment::End.to_frame()].concat())
                .unwrap();
        } else {
            host.write_all(b"to the guest").unwrap();
            host.shutdown(Shutdown::Write).unwrap();
        }
        assert_eq!(read_to_end(&socket), b"to the guest");
        socket.write_all(b"to the host").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&host), b"to the host");
        assert!(!framed || is_half_closed(&host), "an end must not look like a broken connection");
    }
}

#[test]
fn guest_that_closes_first_still_receives() {
    let guest = Guest::plain();
    let (mut host, socket) = connected(&guest, true);
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&host), b"");
    assert!(is_half_closed(&host));
    host.write_all(&[data(b"late"), Segment::End.to_frame()].concat()).unwrap();
    assert_eq!(read_to_end(&socket), b"late");
}

#[test]
fn bytes_may_follow_the_request_directly() {
    let guest = Guest::plain();
    for framed in [true, false] {
        let (listener, port) = listener();
        let mut bytes = Request::Connect { port, framed }.to_frame();
        bytes.extend(if framed { data(b"early") } else { b"early".to_vec() });
        let mut host = guest.send_bytes(&bytes);
        let mut found = [0; 5];
        listener.accept().unwrap().0.read_exact(&mut found).unwrap();
        assert_eq!(&found, b"early");
        assert_eq!(read_frame(&mut host), Some(Reply::Connected));
    }
}

#[test]
fn closed_port_is_refused_and_closes_the_stream() {
    let guest = Guest::plain();
    let port = listener().1;
    let mut host = guest.send(&Request::Connect { port, framed: true });
    assert_eq!(failed(&mut host), ("connect".into(), format!("port {port}"), 111));
}

#[test]
fn port_on_ipv6_only_is_found() {
    let guest = Guest::plain();
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut host = guest.send(&Request::Connect { port, framed: false });
    assert_eq!(read_frame(&mut host), Some(Reply::Connected));
    listener.accept().unwrap().0.write_all(b"six").unwrap();
    assert_eq!(read_to_end(host), b"six");
}

#[test]
fn guest_reset_differs_from_close() {
    let guest = Guest::plain();
    for half_closed in [false, true] {
        let (mut host, socket) = connected(&guest, true);
        host.write_all(&data(b"nobody reads this")).unwrap();
        if half_closed {
            host.write_all(&Segment::End.to_frame()).unwrap();
        }
        eventually("delivered", || socket.peek(&mut [0; 32]).unwrap() == 17);
        // Closed with something unread: the kernel resets.
        drop(socket);
        let ended = host.read(&mut [0; 8]);
        assert!(matches!(ended, Ok(0)), "{ended:?}");
        assert!(!is_half_closed(&host));
    }
}

#[test]
fn host_that_vanishes_resets_the_guest() {
    let guest = Guest::plain();
    let (mut host, mut socket) = connected(&guest, true);
    host.write_all(&data(b"half a")).unwrap();
    eventually("delivered", || socket.peek(&mut [0; 32]).unwrap() == 6);
    drop(host);
    let mut bytes = Vec::new();
    let ended = socket.read_to_end(&mut bytes);
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn malformed_frame_resets_the_guest() {
    let guest = Guest::plain();
    let after_end = [Segment::End.to_frame(), data(b"more")].concat();
    for bytes in [&[0xFF; 16][..], &[0, 0, 0, 0, 0x31, 0, 0, 0], &after_end] {
        let (mut host, mut socket) = connected(&guest, true);
        host.write_all(bytes).unwrap();
        let ended = socket.read(&mut [0; 8]).and_then(|_| socket.read(&mut [0; 8]));
        assert!(ended.is_err() || !is_half_closed(&host));
    }
}

#[test]
fn nothing_is_lost_when_both_sides_stall() {
    let guest = Guest::plain();
    let (host, socket) = connected(&guest, true);
    let pattern = |seed: usize| -> Vec<u8> {
        (0..6 << 20)
            .map(|at: usize| (at.wrapping_mul(2_654_435_761) >> 16) as u8 ^ seed as u8)
            .collect()
    };
    let (inward, outward) = (pattern(1), pattern(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            for piece in inward.chunks(MAX_CHUNK - 1) {
                (&host).write_all(&data(piece)).unwrap();
            }
            (&host).write_all(&Segment::End.to_frame()).unwrap();
        });
        scope.spawn(|| {
            (&socket).write_all(&outward).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
        });
        // Readers that begin late: both directions are full by then.
        thread::sleep(Duration::from_millis(200));
        scope.spawn(|| assert!(read_to_end(&socket) == inward));
        scope.spawn(|| assert!(read_to_end(&host) == outward));
    });
}

#[test]
fn many_connections_at_once_leave_no_descriptors() {
    let guest = Guest::plain();
    let before = guest.descriptors();
    let (listener, port) = listener();
    let mut pairs: Vec<_> = (0..200_u32)
        .map(|number| {
            let mut host = guest.send(&Request::Connect { port, framed: false });
            assert_eq!(read_frame(&mut host), Some(Reply::Connected));
            host.write_all(&number.to_le_bytes()).unwrap();
            (host, listener.accept().unwrap().0)
        })
        .collect();
    assert!(guest.descriptors() >= before + 400);
    for (number, (_, socket)) in (0_u32..).zip(&mut pairs) {
        let mut bytes = [0; 4];
        socket.read_exact(&mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), number);
    }
    drop(pairs);
    eventually("closed", || guest.descriptors() == before);
}

#[test]
fn accepted_connections_are_reported_and_claimed_by_number() {
    let guest = Guest::plain();
    let mut listen = guest.send(&Request::Listen { port: 0 });
    let Some(Reply::Listens { port }) = read_frame(&mut listen) else { panic!("does not listen") };
    for (address, text) in [("127.0.0.1", "four"), ("::1", "six")] {
        let mut client = TcpStream::connect((address, port)).unwrap();
        let Some(Reply::Accepted { connection }) = read_frame(&mut listen) else {
            panic!("not told")
        };
        let mut host = guest.send(&Request::Accept { connection });
        assert_eq!(read_frame(&mut host), Some(Reply::Connected));
        client.write_all(text.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&host), text.as_bytes());
        host.write_all(&[data(b"back"), Segment::End.to_frame()].concat()).unwrap();
        assert_eq!(read_to_end(&client), b"back");
        let mut again = guest.send(&Request::Accept { connection });
        assert_eq!(failed(&mut again).2, 2);
    }
}

#[test]
fn closed_stream_closes_its_listener_and_resets_pending_connections() {
    let guest = Guest::plain();
    let before = guest.descriptors();
    let mut listen = guest.send(&Request::Listen { port: 0 });
    let Some(Reply::Listens { port }) = read_frame(&mut listen) else { panic!("does not listen") };
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(matches!(read_frame(&mut listen), Some(Reply::Accepted { .. })));
    let mut other = guest.send(&Request::Listen { port });
    assert_eq!(failed(&mut other), ("listen".into(), format!("port {port}"), 98));
    drop(listen);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    eventually("closed", || guest.descriptors() == before);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    let mut again = guest.send(&Request::Listen { port });
    assert_eq!(read_frame(&mut again), Some(Reply::Listens { port }));
}

#[test]
fn excess_connections_are_accepted_when_there_is_room() {
    let guest = Guest::plain();
    let mut listen = guest.send(&Request::Listen { port: 0 });
    let Some(Reply::Listens { port }) = read_frame(&mut listen) else { panic!("does not listen") };
    let clients: Vec<_> = (0..super::WAITING + 20)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect();
    for _ in 0..clients.len() {
        let Some(Reply::Accepted { connection }) = read_frame(&mut listen) else {
            panic!("not told")
        };
        let mut host = guest.send(&Request::Accept { connection });
        assert_eq!(read_frame(&mut host), Some(Reply::Connected));
    }
}
