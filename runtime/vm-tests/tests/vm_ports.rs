//! Ports: from the host into the guest, and from the guest to addresses that the host names.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "the example's main function is not used")]
#[path = "../../../examples/examples/web_service.rs"]
mod web_service;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use supermachine::error::PortError;
use supermachine::{Error, Image, Vm, VmConfig};
use supermachine_test_support::machines::{bake, baked, busybox, folder, scaled, sh, start};

/// Longer than any answer takes, even on a slow host.
const TIMEOUT: Duration = Duration::from_secs(120);

fn nginx() -> Image {
    baked("nginx", || bake("nginx"))
}

fn redis() -> Image {
    baked("redis", || bake("redis"))
}

/// A machine with a server on a port: `program` gets each connection as its input and output.
fn serving(port: u16, program: &str) -> Vm {
    let vm = start(&busybox());
    serve(&vm, port, program);
    vm
}

fn serve(vm: &Vm, port: u16, program: &str) {
    sh(vm, &format!("setsid nc -ll -p {port} -e {program} </dev/null >/dev/null 2>&1 &"));
    let end = Instant::now() + TIMEOUT;
    while let Err(error) = vm.connect(port) {
        assert!(matches!(error, Error::Port { source: PortError::Guest { .. } }), "{error}");
        assert!(Instant::now() < end, "nothing listens on {port}");
        // No event says when `nc` listens.
        thread::sleep(Duration::from_millis(50));
    }
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

fn get(mut stream: impl Read + Write) -> String {
    stream.write_all(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

fn read_to_end(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

fn is_reset(mut stream: impl Read) -> bool {
    let ended = stream.read_to_end(&mut Vec::new());
    ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

fn python() -> Image {
    baked("python3", || bake("python3").entrypoint(["sleep", "1000000"]))
}

/// Starts a program that answers datagrams on a port, and waits until it does.
fn serve_datagrams(vm: &Vm, port: u16, address: &str) {
    vm.write_file("/tmp/datagrams.py", include_str!("programs/datagrams.py")).unwrap();
    let argv = format!("python3 /tmp/datagrams.py {port} {address}");
    sh(vm, &format!("setsid {argv} </dev/null >/dev/null 2>&1 & echo $! > /tmp/datagrams.pid"));
    let forward = vm.expose_udp(([127, 0, 0, 1], 0), port).unwrap();
    asked(&udp_client(forward.local_addr()), b"begin");
}

fn udp_client(address: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind((address.ip(), 0)).unwrap();
    client.connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    client
}

/// The answer to a datagram, which is sent until there is one: it is lost while nothing listens.
fn asked(client: &UdpSocket, question: &[u8]) -> Vec<u8> {
    let end = Instant::now() + TIMEOUT;
    let mut answer = vec![0; 1 << 16];
    loop {
        assert!(Instant::now() < end, "no answer to a datagram of {} bytes", question.len());
        client.send(question).unwrap();
        while let Ok(count) = client.recv(&mut answer) {
            // Answers to earlier questions may still arrive.
            let port = answer[..count].strip_suffix(question);
            if port.is_some_and(|port| port.iter().all(|byte| matches!(byte, b'0'..=b'9' | b' '))) {
                answer.truncate(count);
                return answer;
            }
        }
    }
}

/// The source port that the guest's program sees of a client.
fn source_port(client: &UdpSocket, question: &str) -> String {
    let answer = String::from_utf8(asked(client, question.as_bytes())).unwrap();
    answer.strip_suffix(&format!(" {question}")).unwrap().to_owned()
}

/// Pseudorandom numbers, for bytes and for stalls.
struct Pattern(u64);

impl Pattern {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_le_bytes()[..piece.len()]);
        }
    }
}

#[test]
fn service_answers_on_the_requested_port() {
    let vm = start(&nginx());
    let _web = vm.expose_tcp(8080, 80).unwrap();
    for _ in 0..3 {
        let page = get(dial(([127, 0, 0, 1], 8080).into()));
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        assert!(page.contains("Welcome to nginx!"), "{page}");
    }
    let twice = vm.expose_tcp(8080, 80).unwrap_err();
    assert!(twice.to_string().starts_with("cannot listen on 127.0.0.1:8080;"), "{twice}");
    assert!(get(vm.connect(80).unwrap()).contains("Welcome to nginx!"));
    vm.stop().unwrap();
    assert!(TcpStream::connect("127.0.0.1:8080").is_err());
}

#[test]
fn example_web_service_serves_until_its_input_closes() {
    nginx();
    let (sender, addresses) = channel();
    let (mut input, end) = UnixStream::pair().unwrap();
    let example = thread::spawn(move || {
        let report = |address| sender.send(address).unwrap();
        web_service::serve(&folder().join("store"), "nginx", (0, 80), report, &mut input).unwrap();
    });
    let address = addresses.recv_timeout(TIMEOUT).unwrap();
    assert!(get(dial(address)).contains("Welcome to nginx!"));
    drop(end);
    example.join().unwrap();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn redis_answers_through_a_port() {
    let vm = start(&redis());
    let forward = vm.expose_tcp(0, 6379).unwrap();
    let mut client = dial(forward.local_addr());
    let mut ask = |command: &str, answer: &str| {
        client.write_all(command.as_bytes()).unwrap();
        let mut bytes = vec![0; answer.len()];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), answer);
    };
    ask("PING\r\n", "+PONG\r\n");
    ask("SET key value\r\n", "+OK\r\n");
    ask("GET key\r\n", "$5\r\nvalue\r\n");
    let mut direct = vm.connect(6379).unwrap();
    direct.write_all(b"GET key\r\nQUIT\r\n").unwrap();
    assert_eq!(read_to_end(direct), b"$5\r\nvalue\r\n+OK\r\n");
}

#[test]
fn random_stalls_neither_lose_nor_reorder_bytes() {
    let size: usize = scaled(1 << 30, 48 << 20);
    const SEED: u64 = 0x5EED_F0B7;
    let vm = serving(7000, "cat");
    let forward = vm.expose_tcp(0, 7000).unwrap();
    let stream = dial(forward.local_addr());
    let begin = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut data, mut chance) = (Pattern(SEED), Pattern(SEED + 1));
            let mut piece = vec![0; 256 << 10];
            for _ in 0..size / piece.len() {
                data.fill(&mut piece);
                (&stream).write_all(&piece).unwrap();
                if chance.next() % 16 == 0 {
                    thread::sleep(Duration::from_millis(chance.next() % 200));
                }
            }
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let (mut data, mut chance) = (Pattern(SEED), Pattern(SEED + 2));
        let (mut piece, mut expected) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        for at in 0..size / piece.len() {
            (&stream).read_exact(&mut piece).unwrap();
            data.fill(&mut expected);
            assert!(piece == expected, "piece {at} differs, seed {SEED:#x}");
            if chance.next() % 64 == 0 {
                thread::sleep(Duration::from_millis(chance.next() % 200));
            }
        }
        assert_eq!(read_to_end(&stream), b"");
    });
    eprintln!("{} MiB each way in {:?}", size >> 20, begin.elapsed());
}

#[test]
fn each_direction_closes_independently() {
    let vm = serving(7000, "cat");
    let forward = vm.expose_tcp(0, 7000).unwrap();
    let mut client = dial(forward.local_addr());
    client.write_all(b"until the end").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&client), b"until the end");
    let mut direct = vm.connect(7000).unwrap();
    direct.write_all(b"until the end").unwrap();
    direct.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&direct), b"until the end");
    // The guest closes first, and still receives.
    let script = "#!/bin/sh\necho first\nexec 1>&- 2>&-\ncat > /tmp/heard\n";
    vm.exec(["sh", "-c", &format!("printf '{script}' > /tmp/ender; chmod +x /tmp/ender")]).unwrap();
    serve(&vm, 7001, "/tmp/ender");
    sh(&vm, "rm -f /tmp/heard");
    let forward = vm.expose_tcp(0, 7001).unwrap();
    let mut client = dial(forward.local_addr());
    client.write_all(b"second").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&client), b"first\n");
    let end = Instant::now() + TIMEOUT;
    while sh(&vm, "cat /tmp/heard 2>/dev/null; true") != "second" {
        assert!(Instant::now() < end, "the guest received nothing");
    }
}

#[test]
fn two_hundred_concurrent_connections_are_served() {
    let vm = start(&redis());
    let forward = vm.expose_tcp(0, 6379).unwrap();
    let mut clients: Vec<_> = (0..200).map(|_| dial(forward.local_addr())).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write_all(format!("ECHO {number}\r\n").as_bytes()).unwrap();
    }
    // All are open when the first one quits.
    for (number, client) in clients.iter_mut().enumerate().rev() {
        client.write_all(b"QUIT\r\n").unwrap();
        let text = number.to_string();
        let answer = format!("${}\r\n{text}\r\n+OK\r\n", text.len());
        assert_eq!(String::from_utf8_lossy(&read_to_end(client)), answer);
    }
    vm.stop().unwrap();
}

#[test]
fn ipv6_addresses_and_socket_files_can_be_bound() {
    let vm = serving(7000, "hostname");
    let six = vm.forward(7000).bind((Ipv6Addr::LOCALHOST, 0)).listen().unwrap();
    assert!(six.local_addr().is_ipv6());
    assert_eq!(read_to_end(dial(six.local_addr())), b"supermachine\n");
    let path = folder().join("ports.sock");
    let file = vm.expose_unix(&path, 7000).unwrap();
    assert_eq!(read_to_end(UnixStream::connect(file.path()).unwrap()), b"supermachine\n");
    assert!(matches!(
        vm.expose_unix(&path, 7000),
        Err(Error::Port { source: PortError::Listen { .. } })
    ));
    file.close().unwrap();
    assert!(!path.exists());
}

#[test]
fn connection_to_a_closed_port_is_refused() {
    let vm = start(&busybox());
    let forward = vm.expose_tcp(0, 7000).unwrap();
    assert!(is_reset(dial(forward.local_addr())));
    let Err(Error::Port { source: PortError::Guest { port: 7000, source } }) = vm.connect(7000)
    else {
        panic!("connected to nothing")
    };
    assert_eq!(source.kind(), ErrorKind::ConnectionRefused);
    // Once something listens, the same forward works.
    serve(&vm, 7000, "hostname");
    assert_eq!(read_to_end(dial(forward.local_addr())), b"supermachine\n");
}

#[test]
fn forward_closes_with_its_guard_and_can_be_made_again() {
    let vm = serving(7000, "cat");
    let forward = vm.expose_tcp(0, 7000).unwrap();
    let address = forward.local_addr();
    let mut client = dial(address);
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    assert!(matches!(
        vm.expose_tcp(address.port(), 7000),
        Err(Error::Port { source: PortError::Listen { .. } })
    ));
    drop(forward);
    assert!(is_reset(client));
    assert!(TcpStream::connect(address).is_err());
    let _again = vm.expose_tcp(address.port(), 7000).unwrap();
    let client = dial(address);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(client), b"");
}

#[test]
fn connections_are_reset_when_the_guest_dies() {
    let vm = serving(7000, "cat");
    let forward = vm.expose_tcp(0, 7000).unwrap();
    let reverse = vm.reverse_tcp(0, ([127, 0, 0, 1], 1)).unwrap();
    let mut client = dial(forward.local_addr());
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let mut direct = vm.connect(7000).unwrap();
    let command = "echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero";
    assert!(matches!(vm.exec(["sh", "-c", command]), Err(Error::Guest { .. })));
    assert!(is_reset(client));
    assert_eq!(direct.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let late = TcpStream::connect(forward.local_addr());
    assert!(late.is_err() || is_reset(late.unwrap()));
    let end = Instant::now() + TIMEOUT;
    while forward.check().is_ok() || reverse.check().is_ok() {
        assert!(Instant::now() < end, "the forwards outlive the guest");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(matches!(vm.connect(7000), Err(Error::Guest { .. })));
    assert!(matches!(forward.close(), Err(Error::Port { source: PortError::Closed { .. } })));
}

#[test]
fn guest_reaches_only_the_named_address() {
    let vm = start(&busybox());
    let (target, other) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let reverse = vm.reverse_tcp(0, target.local_addr().unwrap()).unwrap();
    let server = thread::spawn(move || {
        for _ in 0..3 {
            let (mut stream, _) = target.accept().unwrap();
            let request = read_to_end(&stream);
            stream.write_all(&[b"heard ", request.as_slice()].concat()).unwrap();
        }
    });
    let port = reverse.guest_port();
    for address in ["127.0.0.1", "::1", "localhost"] {
        let heard = sh(&vm, &format!("echo hello | nc {address} {port}"));
        assert_eq!(heard, "heard hello\n", "{address}");
    }
    server.join().unwrap();
    let other = other.local_addr().unwrap().port();
    let refused = vm.exec(["sh", "-c", &format!("nc 127.0.0.1 {other} </dev/null")]).unwrap();
    assert!(!refused.success(), "the guest reached another port of the host");
    // Nothing listens on the named address any more.
    let refused = sh(&vm, &format!("nc 127.0.0.1 {port} </dev/null 2>/dev/null; true"));
    assert_eq!(refused, "");
    let taken = vm.reverse_tcp(port, ([127, 0, 0, 1], 1)).unwrap_err();
    let Error::Port { source: PortError::Guest { source, .. } } = &taken else { panic!("{taken}") };
    assert_eq!(source.kind(), ErrorKind::AddrInUse);
    drop(reverse);
    let end = Instant::now() + TIMEOUT;
    while sh(&vm, "netstat -ltn").contains(&format!(":{port} ")) {
        assert!(Instant::now() < end, "the guest still listens");
    }
}

#[test]
fn snapshot_of_a_machine_with_open_ports_starts_without_them() {
    let vm = serving(7000, "cat");
    let forward = vm.expose_tcp(0, 7000).unwrap();
    let reverse = vm.reverse_tcp(7500, ([127, 0, 0, 1], 1)).unwrap();
    let mut client = dial(forward.local_addr());
    client.write_all(b"before").unwrap();
    client.read_exact(&mut [0; 6]).unwrap();
    let taken = vm.snapshot("ports").unwrap();
    client.write_all(b"after").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(client), b"after", "the captured machine keeps its streams");
    let other = taken.image.start(&VmConfig::new()).unwrap();
    let end = Instant::now() + TIMEOUT;
    while sh(&other, "netstat -ltn").contains(":7500 ") {
        assert!(Instant::now() < end, "the guest still listens");
    }
    let again = other.reverse_tcp(7500, ([127, 0, 0, 1], 1)).unwrap();
    assert_eq!((again.guest_port(), reverse.guest_port()), (7500, 7500));
    let exposed = other.expose_tcp(0, 7000).unwrap();
    let client = dial(exposed.local_addr());
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(client), b"");
}

#[test]
fn clients_of_a_udp_port_get_their_own_answers() {
    let vm = start(&python());
    serve_datagrams(&vm, 7000, "127.0.0.1");
    let forward = vm.expose_udp(([127, 0, 0, 1], 0), 7000).unwrap();
    let clients = [(); 3].map(|()| udp_client(forward.local_addr()));
    let ports: Vec<_> = (0..3).map(|n| source_port(&clients[n], &format!("first {n}"))).collect();
    assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2], "{ports:?}");
    for n in [2, 0, 1] {
        assert_eq!(source_port(&clients[n], &format!("second {n}")), ports[n]);
    }
    // An empty datagram is one, too.
    assert_eq!(asked(&clients[0], b""), format!("{} ", ports[0]).as_bytes());
    let mut large = vec![0; 65_507];
    Pattern(7).fill(&mut large);
    for length in [65_507, 1_472, 9_000] {
        assert!(asked(&clients[1], &large[..length]) == large[..length], "{length}");
    }
    let twice = vm.expose_udp(forward.local_addr(), 7000).unwrap_err();
    let said = format!("cannot listen on {};", forward.local_addr());
    assert!(twice.to_string().starts_with(&said), "{twice}");
    // The same port of TCP is another one.
    let tcp = vm.forward(7000).bind(forward.local_addr()).listen().unwrap();
    assert_eq!(tcp.local_addr(), forward.local_addr());
    forward.check().unwrap();
    vm.stop().unwrap();
    let end = Instant::now() + TIMEOUT;
    while forward.check().is_ok() {
        assert!(Instant::now() < end, "the forward outlives the machine");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn closed_udp_port_is_found_once_something_listens() {
    let vm = start(&python());
    let forward = vm.expose_udp((Ipv6Addr::LOCALHOST, 0), 7001).unwrap();
    let client = udp_client(forward.local_addr());
    for _ in 0..20 {
        client.send(b"nobody hears this").unwrap();
    }
    assert!(client.recv(&mut [0; 100]).is_err());
    forward.check().unwrap();
    serve_datagrams(&vm, 7001, "127.0.0.1");
    let port = source_port(&client, "hello");
    assert_eq!(source_port(&client, "again"), port);
    // A flow with another address of the guest, after a restart of its program.
    sh(&vm, "kill $(cat /tmp/datagrams.pid)");
    let script = "import socket\ns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n\
                  s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)\n\
                  s.bind((\"::1\", 7001))\nwhile True:\n    s.sendto(*s.recvfrom(65536))\n";
    vm.write_file("/tmp/six.py", script).unwrap();
    sh(&vm, "setsid python3 /tmp/six.py </dev/null >/dev/null 2>&1 &");
    assert_eq!(asked(&client, b"six"), b"six");
}

#[test]
fn snapshot_of_a_machine_with_udp_flows_starts_without_them() {
    let vm = start(&python());
    serve_datagrams(&vm, 7000, "0.0.0.0");
    let forward = vm.expose_udp(([127, 0, 0, 1], 0), 7000).unwrap();
    let client = udp_client(forward.local_addr());
    let port = source_port(&client, "before");
    let taken = vm.snapshot("udp").unwrap();
    assert_eq!(source_port(&client, "after"), port, "the captured machine keeps its flows");
    let other = taken.image.start(&VmConfig::new()).unwrap();
    let end = Instant::now() + TIMEOUT;
    // Local and remote address, as the kernel prints them.
    let socket = format!("0100007F:{:04X} 0100007F:1B58", port.parse::<u16>().unwrap());
    while sh(&other, "cat /proc/net/udp").contains(&socket) {
        assert!(Instant::now() < end, "the flow's socket is still there");
    }
    let exposed = other.expose_udp(([127, 0, 0, 1], 0), 7000).unwrap();
    source_port(&udp_client(exposed.local_addr()), "another machine");
    source_port(&client, "still served");
}
