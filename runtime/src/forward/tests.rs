//! Relays and streams against a guest that the test plays.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use supermachine_formats::wire::{HEADER_SIZE, Header, Segment};

use supermachine_vmm::Machine;

use super::*;
use crate::error::{HostError, PortError};
use crate::machine::StreamError;

pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

/// A guest whose end of each stream arrives on a channel.
#[derive(Debug)]
struct Fake {
    streams: Mutex<Sender<(Request, UnixStream)>>,
    state: Arc<FakeState>,
}

#[derive(Debug, Default)]
pub(super) struct FakeState {
    pub(super) has_ended: AtomicBool,
    /// How many streams to refuse as without descriptors.
    pub(super) refusals: AtomicUsize,
    pub(super) dials: AtomicUsize,
}

impl MachineHandle for Fake {
    fn dial(&self, frames: &[u8]) -> Result<UnixStream, Error> {
        self.state.dials.fetch_add(1, Ordering::Relaxed);
        let lacks = |left: usize| left.checked_sub(1);
        let refused =
            self.state.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lacks).is_ok();
        if refused {
            return Err(Error::Host {
                source: HostError::Stream { source: io::Error::from_raw_os_error(libc::EMFILE) },
            });
        }
        let (host, guest) = UnixStream::pair().unwrap();
        if self.exit().is_none() {
            let request = read_message(&mut &*frames, None).unwrap();
            guest.set_read_timeout(Some(TIMEOUT)).unwrap();
            self.streams.lock().unwrap().send((request, guest)).unwrap();
        }
        Ok(host)
    }

    fn exit(&self) -> Option<StreamError> {
        self.state.has_ended.load(Ordering::Relaxed).then_some(StreamError::Stopped)
    }

    fn is_healthy(&self) -> bool {
        self.exit().is_none()
    }

    fn console(&self) -> Result<Vec<u8>, Error> {
        unreachable!()
    }

    fn usage(&self) -> Result<(Duration, u64), Error> {
        unreachable!()
    }

    fn pause(&self) -> Result<(), Error> {
        unreachable!()
    }

    fn resume(&self) -> Result<(), Error> {
        unreachable!()
    }

    fn stop(&self) -> Result<(), Error> {
        unreachable!()
    }

    fn keep_alive(&self) -> Option<Arc<Machine>> {
        None
    }
}

pub(super) struct Guest {
    pub(super) dialer: Arc<Dialer>,
    pub(super) state: Arc<FakeState>,
    pub(super) streams: Receiver<(Request, UnixStream)>,
    pub(super) machine: Arc<dyn MachineHandle>,
}

impl Guest {
    pub(super) fn new() -> Self {
        let (sender, streams) = channel();
        let state = Arc::new(FakeState::default());
        let fake = Fake { streams: Mutex::new(sender), state: Arc::clone(&state) };
        let machine: Arc<dyn MachineHandle> = Arc::new(fake);
        Self { dialer: Dialer::new(&machine), state, streams, machine }
    }

    fn expose(&self) -> Forward {
        let source = listen::Tcp::bind(([127, 0, 0, 1], 0).into(), 80).unwrap();
        let address = source.local_addr().unwrap();
        Forward { relay: Relay::start(Box::new(source), &self.dialer).unwrap(), address }
    }

    /// The next stream, after the guest's reply that it is connected.
    fn connected(&self) -> UnixStream {
        let (request, mut stream) = self.streams.recv_timeout(TIMEOUT).unwrap();
        assert_eq!(request, Request::Connect { port: 80, framed: true });
        stream.write_all(&Reply::Connected.to_frame()).unwrap();
        stream
    }
}

fn client(forward: &Forward) -> TcpStream {
    let client = TcpStream::connect(forward.local_addr()).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    client
}

fn segment(mut stream: &UnixStream) -> Option<Segment> {
    let mut header = [0; HEADER_SIZE];
    stream.read_exact(&mut header).ok()?;
    let header = Header::decode(header).unwrap();
    let mut payload = vec![0; header.length];
    stream.read_exact(&mut payload).unwrap();
    Some(Segment::decode(header.kind, &payload).unwrap())
}

/// The client's bytes up to end of file.
fn bytes_of_client(stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match segment(stream).expect("an end") {
            Segment::Data(piece) => bytes.extend(piece),
            _ => return bytes,
        }
    }
}

fn read_to_end(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

fn is_reset(mut client: &TcpStream) -> bool {
    client
        .read_to_end(&mut Vec::new())
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come about");
        thread::yield_now();
    }
}

#[test]
fn bytes_pass_both_ways_and_each_direction_closes_alone() {
    let guest = Guest::new();
    let forward = guest.expose();
    let mut client = client(&forward);
    let mut stream = guest.connected();
    client.write_all(b"to the guest").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bytes_of_client(&stream), b"to the guest");
    stream.write_all(b"to the host").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&client), b"to the host");
    assert_eq!(read_to_end(&stream), b"", "the host closes the stream after both ends");
}

/// A connection whose client has seen the guest's end of file.
fn with_a_guest_that_ended_first() -> (Guest, Forward, TcpStream, UnixStream) {
    let guest = Guest::new();
    let forward = guest.expose();
    let client = client(&forward);
    let stream = guest.connected();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&client), b"");
    (guest, forward, client, stream)
}

#[test]
fn guest_that_closes_first_still_receives() {
    let (_guest, _forward, mut client, stream) = with_a_guest_that_ended_first();
    client.write_all(b"late").unwrap();
    drop(client);
    assert_eq!(bytes_of_client(&stream), b"late");
}

#[test]
fn guest_that_closes_first_and_is_gone_resets_the_client() {
    let (_guest, _forward, mut client, stream) = with_a_guest_that_ended_first();
    drop(stream);
    // The first late byte shows it.
    client.write_all(b"late").unwrap();
    eventually("reset", || client.write_all(b"later").is_err());
}

#[test]
fn client_bytes_do_not_wait_for_the_guests_reply() {
    let guest = Guest::new();
    let forward = guest.expose();
    let mut client = client(&forward);
    client.write_all(b"early").unwrap();
    let (_, stream) = guest.streams.recv().unwrap();
    assert_eq!(segment(&stream), Some(Segment::Data(b"early".to_vec())));
}

#[test]
fn refused_connection_is_reset() {
    let guest = Guest::new();
    let forward = guest.expose();
    let failure = Failure { operation: "connect".into(), subject: "port 80".into(), errno: 111 };
    for reply in [Reply::Failed(failure).to_frame(), Reply::Done.to_frame(), vec![0xFF; 20]] {
        let client = client(&forward);
        let (_, mut stream) = guest.streams.recv().unwrap();
        stream.write_all(&reply).unwrap();
        assert!(is_reset(&client));
    }
    forward.check().unwrap();
}

#[test]
fn broken_guest_resets_the_client_even_after_its_eof() {
    let guest = Guest::new();
    let forward = guest.expose();
    for has_ended in [false, true] {
        let client = client(&forward);
        let mut stream = guest.connected();
        stream.write_all(b"half an ans").unwrap();
        if has_ended {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(bytes_of_client(&stream), b"");
        }
        eventually("delivered", || client.peek(&mut [0; 16]).unwrap() == 11);
        drop(stream);
        assert!(is_reset(&client), "{has_ended}");
    }
}

#[test]
fn client_reset_closes_the_stream_without_eof() {
    let guest = Guest::new();
    let forward = guest.expose();
    let mut client = client(&forward);
    let mut stream = guest.connected();
    client.write_all(b"x").unwrap();
    assert_eq!(segment(&stream), Some(Segment::Data(b"x".to_vec())));
    stream.write_all(b"unread").unwrap();
    eventually("delivered", || client.peek(&mut [0; 16]).unwrap() == 6);
    // Closed with unread bytes: the kernel resets.
    drop(client);
    assert_eq!(segment(&stream), None);
}

#[test]
fn nothing_is_lost_or_reordered_when_both_sides_stall() {
    const SIZE: usize = 8 << 20;
    let guest = Guest::new();
    let forward = guest.expose();
    let client = client(&forward);
    let stream = guest.connected();
    let pattern = |seed: u32| -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        (0..SIZE).map(|_| next()).collect()
    };
    let (inward, outward) = (pattern(1), pattern(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            (&client).write_all(&inward).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| {
            (&stream).write_all(&outward).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        // The readers start late, when both directions are full.
        thread::sleep(Duration::from_millis(200));
        scope.spawn(|| assert!(read_to_end(&client) == outward));
        scope.spawn(|| assert!(bytes_of_client(&stream) == inward));
    });
}

#[test]
fn stalled_connection_does_not_block_others() {
    let guest = Guest::new();
    let forward = guest.expose();
    let stalled = client(&forward);
    let full = guest.connected();
    full.set_nonblocking(true).unwrap();
    while (&full).write(&[0; 65536]).is_ok() {}
    stalled.set_nonblocking(true).unwrap();
    while (&stalled).write(&[0; 65536]).is_ok() {}
    let pairs: Vec<_> = (0..100_u8)
        .map(|number| {
            let mut client = client(&forward);
            client.write_all(&[number]).unwrap();
            (client, guest.connected())
        })
        .collect();
    for (number, (client, mut stream)) in (0..).zip(pairs) {
        let Some(Segment::Data(bytes)) = segment(&stream) else { panic!("no data") };
        assert_eq!(bytes, [number]);
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&client), bytes);
    }
}

#[test]
fn dropping_a_forward_resets_its_connections_and_frees_the_port() {
    let guest = Guest::new();
    let forward = guest.expose();
    let address = forward.local_addr();
    let client = client(&forward);
    let stream = guest.connected();
    let taken = listen::Tcp::bind(address, 80).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    forward.close().unwrap();
    assert!(is_reset(&client));
    assert_eq!(segment(&stream), None);
    assert!(TcpStream::connect(address).is_err());
    listen::Tcp::bind(address, 80).unwrap();
}

#[test]
fn closed_dialer_closes_its_forwards() {
    let guest = Guest::new();
    let forward = guest.expose();
    let client = client(&forward);
    let _stream = guest.connected();
    guest.dialer.close();
    assert!(is_reset(&client));
    eventually("end", || forward.check().is_err());
    assert!(TcpStream::connect(forward.local_addr()).is_err());
    assert!(matches!(forward.close(), Err(Error::Port { source: PortError::Closed { .. } })));
    assert!(guest.dialer.dial(&Request::Settle).is_err());
}

#[test]
fn dropped_machine_closes_its_forwards() {
    let Guest { dialer, streams, .. } = Guest::new();
    let source = listen::Tcp::bind(([127, 0, 0, 1], 0).into(), 80).unwrap();
    let relay = Relay::start(Box::new(source), &dialer).unwrap();
    drop((dialer, streams));
    eventually("end", || relay.has_ended());
}

#[test]
fn exited_guest_closes_the_forward_at_the_next_connection() {
    let guest = Guest::new();
    let forward = guest.expose();
    guest.state.has_ended.store(true, Ordering::Relaxed);
    assert!(is_reset(&client(&forward)));
    eventually("end", || forward.check().is_err());
    assert!(TcpStream::connect(forward.local_addr()).is_err());
}

#[test]
fn connection_without_descriptors_is_retried_after_a_backoff() {
    let guest = Guest::new();
    let forward = guest.expose();
    guest.state.refusals.store(2, Ordering::Relaxed);
    assert!(is_reset(&client(&forward)));
    let begin = Instant::now();
    assert!(is_reset(&client(&forward)));
    assert!(begin.elapsed() > Duration::from_millis(50), "{:?}", begin.elapsed());
    let mut client = client(&forward);
    let _stream = guest.connected();
    client.write_all(b"x").unwrap();
    assert_eq!(guest.state.dials.load(Ordering::Relaxed), 3);
}

#[test]
fn connections_over_the_limit_wait() {
    let guest = Guest::new();
    let (one, other) = (guest.expose(), guest.expose());
    let mut held: Vec<_> = (0..64)
        .flat_map(|_| [&one, &other])
        .map(|forward| (client(forward), guest.connected()))
        .collect();
    let waiting = [client(&one), client(&other)];
    thread::sleep(Duration::from_millis(300));
    assert_eq!(guest.state.dials.load(Ordering::Relaxed), held.len());
    held.truncate(126);
    let served = [guest.connected(), guest.connected()];
    drop((held, waiting, served));
}

#[test]
fn ipv6_address_can_be_listened_on() {
    let guest = Guest::new();
    let source = listen::Tcp::bind((Ipv6Addr::LOCALHOST, 0).into(), 80).unwrap();
    let address = source.local_addr().unwrap();
    let _relay = Relay::start(Box::new(source), &guest.dialer).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"six").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bytes_of_client(&guest.connected()), b"six");
}

#[test]
fn socket_file_serves_its_owner_and_is_removed_with_its_forward() {
    let guest = Guest::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.sock");
    let source = listen::File::bind(&path, 80).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let relay = Relay::start(Box::new(source), &guest.dialer).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    let mut stream = guest.connected();
    client.write_all(b"in").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bytes_of_client(&stream), b"in");
    stream.write_all(b"out").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&client), b"out");
    drop(relay);
    assert!(!path.exists());
}

#[test]
fn only_an_abandoned_socket_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.sock");
    let taken = |path| listen::File::bind(path, 80).unwrap_err().kind() == ErrorKind::AddrInUse;
    let other = UnixListener::bind(&path).unwrap();
    assert!(taken(&path), "somebody listens");
    drop(other);
    let ours = listen::File::bind(&path, 80).unwrap();
    // A file that replaced it stays.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "a file").unwrap();
    assert!(taken(&path), "not a socket");
    drop(ours);
    assert_eq!(std::fs::read(&path).unwrap(), b"a file");
    let long = folder.path().join("x".repeat(120));
    assert!(listen::File::bind(&long, 80).is_err());
}

#[test]
fn listen_error_names_the_address_and_the_remedy() {
    let error = |address: &str, kind: ErrorKind| {
        Error::Port { source: PortError::Listen { address: address.into(), source: kind.into() } }
            .to_string()
    };
    let used = error("127.0.0.1:80", ErrorKind::AddrInUse);
    assert_eq!(used, "cannot listen on 127.0.0.1:80; port 0 picks a free one");
    let low = error("[::1]:80", ErrorKind::PermissionDenied);
    assert_eq!(low, "cannot listen on [::1]:80; ports over 1023 need no rights");
    assert_eq!(error("/tmp/a.sock", ErrorKind::AddrInUse), "cannot listen on /tmp/a.sock");
}

/// The guest's side of a listener, and the relay for it.
fn reverse(guest: &Guest, target: SocketAddr) -> (UnixStream, Relay) {
    let (host, news) = UnixStream::pair().unwrap();
    let source = Box::new(reverse::GuestListener::new(host, target));
    (news, Relay::start(source, &guest.dialer).unwrap())
}

#[test]
fn guest_connection_reaches_the_named_address() {
    let guest = Guest::new();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut news, _relay) = reverse(&guest, target.local_addr().unwrap());
    for connection in [7, 9] {
        // In two pieces, as it may arrive.
        let frame = Reply::Accepted { connection }.to_frame();
        let (head, rest) = frame.split_at(5);
        news.write_all(head).unwrap();
        news.write_all(rest).unwrap();
        let (request, mut stream) = guest.streams.recv_timeout(TIMEOUT).unwrap();
        assert_eq!(request, Request::Accept { connection });
        stream.write_all(&[Reply::Connected.to_frame(), b"hello".to_vec()].concat()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (mut server, _) = target.accept().unwrap();
        assert_eq!(read_to_end(&server), b"hello");
        server.write_all(b"welcome").unwrap();
        drop(server);
        assert_eq!(bytes_of_client(&stream), b"welcome");
    }
}

#[test]
fn unserved_address_closes_the_guests_connection() {
    let guest = Guest::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut news, relay) = reverse(&guest, free);
    news.write_all(&Reply::Accepted { connection: 1 }.to_frame()).unwrap();
    let (_, stream) = guest.streams.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(segment(&stream), None);
    assert!(!relay.has_ended());
}

#[test]
fn failed_close_in_the_guest_is_retried_after_a_backoff() {
    let guest = Guest::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut news, _relay) = reverse(&guest, free);
    guest.state.refusals.store(1, Ordering::Relaxed);
    news.write_all(&Reply::Accepted { connection: 5 }.to_frame()).unwrap();
    let (request, _) = guest.streams.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(request, Request::Accept { connection: 5 });
}

#[test]
fn closed_or_malformed_guest_listener_stops_its_relay() {
    let guest = Guest::new();
    let frame = Reply::Stdout(vec![0; 100]).to_frame();
    for bytes in [&b""[..], &[0xFF; 9], &frame, &Reply::Done.to_frame()] {
        let (mut news, relay) = reverse(&guest, ([127, 0, 0, 1], 1).into());
        news.write_all(bytes).unwrap();
        drop(news);
        eventually("end", || relay.has_ended());
    }
}

#[test]
fn stream_distinguishes_reset_from_eof() {
    let pair = || {
        let (host, guest) = UnixStream::pair().unwrap();
        (GuestStream::new(host), guest)
    };
    let (mut host, mut guest) = pair();
    guest.write_all(b"all").unwrap();
    guest.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&host), b"all");
    host.write_all(b"on").unwrap();
    let copy = host.try_clone().unwrap();
    copy.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&guest), b"on");
    drop(guest);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    let (mut host, guest) = pair();
    drop(guest);
    assert_eq!(host.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(host.read(&mut []).unwrap(), 0);
}
