//! A guest's network: what it reaches on the host's loopback interface, and what it does not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use supermachine::{AssetPaths, Decision, Image, Network, Rule, Vm, VmConfig};
use supermachine_test_support::machines::{PATIENCE, busybox, scaled, sh, start, until};

const HOST: &str = "host.supermachine.internal";

fn rule(text: &str) -> Rule {
    text.parse().unwrap()
}

fn with(network: Network) -> VmConfig {
    VmConfig::new().with_network(network)
}

/// A listener of the host, and a network that leads to it and to nothing else.
fn listener() -> (TcpListener, u16, Network) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let network = Network::none().allow(rule(&format!("tcp:host:{port}")));
    (listener, port, network)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Answers `count` requests for a page.
fn web(listener: TcpListener, count: usize, page: &'static str) -> JoinHandle<()> {
    thread::spawn(move || {
        for _ in 0..count {
            let mut stream = accept(&listener);
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", page.len());
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(page.as_bytes()).unwrap();
        }
    })
}

fn get(vm: &Vm, host: &str, port: u16) -> String {
    sh(vm, &format!("wget -q -O - http://{host}:{port}/"))
}

/// The output of a script that must fail.
fn fails(vm: &Vm, script: &str) -> String {
    let outcome = vm.exec(["sh", "-c", script]).unwrap();
    let text = String::from_utf8_lossy(&[outcome.stdout.clone(), outcome.stderr.clone()].concat())
        .into_owned();
    assert!(!outcome.success(), "{script}: {text}");
    text
}

fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x5EED_4E77_u64;
    let mut bytes = vec![0; length];
    for piece in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        piece.copy_from_slice(&state.to_le_bytes()[..piece.len()]);
    }
    bytes
}

#[test]
fn interface_is_set_up_before_the_first_command() {
    let vm = busybox().start(&with(Network::none())).unwrap();
    let shown = sh(
        &vm,
        "cat /etc/resolv.conf; ip addr show eth0; ip route; ip -6 route; cat /proc/net/if_inet6",
    );
    assert!(shown.contains("nameserver 198.18.0.1\n"), "{shown}");
    assert!(shown.contains("inet 198.18.0.2/24 "), "{shown}");
    assert!(shown.contains("mtu 65520 "), "{shown}");
    assert!(shown.contains("default via 198.18.0.1 dev eth0"), "{shown}");
    assert!(shown.contains("default via fd73:6d00::1 dev eth0"), "{shown}");
    // No flag says that the address is still being checked.
    let v6 = shown.lines().find(|line| line.starts_with("fd736d00")).unwrap();
    assert_eq!(v6.split_whitespace().nth(4), Some("80"), "{shown}");
    sh(&vm, "ping -c 2 -W 60 198.18.0.1 && ping -6 -c 2 -W 60 fd73:6d00::1");
    // Without a network, there is no interface.
    let vm = start(&busybox());
    let shown = sh(&vm, "cat /sys/class/net/*/address; ls /sys/class/net");
    assert!(shown.contains("lo") && !shown.contains("eth0"), "{shown}");
    assert_eq!(vm.network_stats(), None);
}

#[test]
fn guest_reaches_the_named_port_of_the_host() {
    let (listener, port, network) = listener();
    let server = web(listener, 4, "a page");
    let vm = busybox().start(&with(network)).unwrap();
    for host in [HOST, "198.18.0.3", "[fd73:6d00::3]", HOST] {
        assert_eq!(get(&vm, host, port), "a page");
    }
    server.join().unwrap();
    // Now nothing listens there, and this is not the policy's word.
    let refused = fails(&vm, &format!("wget -O - http://{HOST}:{port}/"));
    assert!(refused.contains("Connection refused"), "{refused}");
    let stats = vm.network_stats().unwrap();
    assert_eq!((stats.sockets_opened, stats.refused), (5, 0));
}

#[test]
fn large_transfers_arrive_whole_both_ways() {
    let size: usize = scaled(256 << 20, 24 << 20);
    let (listener, port, network) = listener();
    let bytes = pattern(size);
    let expected = bytes.clone();
    let server = thread::spawn(move || {
        let mut stream = accept(&listener);
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut stream = accept(&listener);
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        stream.write_all(b"thanks").unwrap();
        back == bytes
    });
    let vm = busybox().start(&with(network)).unwrap();
    let begin = Instant::now();
    sh(&vm, &format!("nc {HOST} {port} < /dev/null > /tmp/file"));
    let down = begin.elapsed();
    // The guest ends its half first, and still hears the answer.
    assert_eq!(sh(&vm, &format!("nc {HOST} {port} < /tmp/file")), "thanks");
    eprintln!("{} MiB: down in {down:?}, both ways in {:?}", size >> 20, begin.elapsed());
    assert!(server.join().unwrap(), "other bytes came back");
    let file = vm.read_file("/tmp/file").unwrap();
    assert!(file == expected);
}

/// A name server: names below `good.test` are public, others lead to a private address.
fn name_server() -> SocketAddr {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((count, from)) = server.recv_from(&mut buffer) {
            let query = &buffer[..count];
            let is_good = query.windows(5).any(|word| word == b"\x04good");
            let ip = if is_good { [9, 9, 9, 9] } else { [10, 0, 0, 1] };
            let wants_v4 = query[count - 4..] == [0, 1, 0, 1];
            let mut answer = query.to_vec();
            answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(wants_v4)]);
            if wants_v4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(ip);
            }
            server.send_to(&answer, from).unwrap();
        }
    });
    address
}

#[test]
fn names_resolve_as_far_as_they_are_allowed() {
    let (listener, port, _) = listener();
    let server = web(listener, 1, "by name");
    let network = Network::none()
        .allow(rule(&format!("*.good.test:{port}")))
        .allow(rule("rebinding.test"))
        .with_resolvers([name_server()])
        .with_redirect(IpAddr::from([9, 9, 9, 9]), Ipv4Addr::LOCALHOST.into());
    let vm = busybox().start(&with(network)).unwrap();
    // An address that no name leads to yet.
    fails(&vm, &format!("wget -T 60 -O - http://9.9.9.9:{port}/"));
    assert!(sh(&vm, "nslookup -type=a www.good.test").contains("9.9.9.9"));
    assert_eq!(get(&vm, "www.good.test", port), "by name");
    server.join().unwrap();
    for name in ["good.test", "other.test", "rebinding.test", HOST] {
        let answer = fails(&vm, &format!("nslookup -type=a {name}"));
        assert!(answer.contains("NXDOMAIN"), "{name}: {answer}");
    }
}

#[test]
fn forbidden_addresses_are_out_of_reach() {
    let (listener, port, _) = listener();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&lines);
    let network = Network::public().with_resolvers([]).on_decision(move |decision| {
        if matches!(decision, Decision::Flow { .. }) {
            log.lock().unwrap().push(decision.to_string());
        }
    });
    let vm = busybox().start(&with(network)).unwrap();
    let rounds = scaled(200, 10);
    let script = format!(
        "for round in $(seq {rounds}); do for address in 10.0.0.$round 172.16.3.$round \
         192.168.1.$round 169.254.169.254 100.100.100.200 168.63.129.16 198.18.0.1 198.18.0.3 \
         fd00:ec2::254 fd73:6d00::3 64:ff9b::7f00:1 2002:7f00:1::1; do \
         nc -w 60 $address {port} < /dev/null && echo reached $address; done; done; true"
    );
    assert_eq!(sh(&vm, &script), "");
    let stats = vm.network_stats().unwrap();
    assert_eq!(stats.sockets_opened, 0);
    // One of the twelve is the gateway itself, which has nothing but names. A slow guest asks twice.
    assert!(stats.refused >= 11 * rounds, "{stats:?}");
    let lines = lines.lock().unwrap();
    assert_eq!(lines.len(), usize::try_from(stats.refused).unwrap());
    assert!(lines.contains(&format!("refused tcp to 169.254.169.254:{port}")), "{lines:?}");
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn hundreds_of_connections_at_once() {
    const COUNT: usize = 220;
    let (listener, port, network) = listener();
    let server = thread::spawn(move || {
        let streams: Vec<_> = (0..COUNT).map(|_| accept(&listener)).collect();
        for mut stream in streams {
            let mut word = [0; 5];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(&word).unwrap();
        }
    });
    let vm = busybox().start(&with(network)).unwrap();
    let script = format!(
        "for n in $(seq {COUNT}); do (printf %05d $n | nc 198.18.0.3 {port} > /tmp/n$n) & done; \
         wait; cat /tmp/n* | sort | tr -d '\\n' | wc -c; ls /tmp/n* | wc -l; cat /tmp/n7"
    );
    let answer = sh(&vm, &script);
    let words: Vec<_> = answer.split_whitespace().collect();
    assert_eq!(words, [&(5 * COUNT).to_string(), &COUNT.to_string(), "00007"]);
    server.join().unwrap();
    assert_eq!(vm.network_stats().unwrap().sockets_opened, COUNT as u64);
}

#[test]
fn return_to_a_pool_closes_all_flows() {
    let (listener, port, network) = listener();
    let image = busybox();
    image.mapped().unwrap();
    let pool =
        image.pool().config(&with(network)).max(1).acquire_timeout(PATIENCE).build().unwrap();
    let vm = pool.acquire().unwrap();
    sh(&vm, &format!("(sleep 7777 | nc {HOST} {port}) > /dev/null 2>&1 < /dev/null &"));
    let mut stream = accept(&listener);
    drop(vm);
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let vm = pool.acquire().unwrap();
    assert_eq!((pool.stats().created, pool.stats().reset), (1, 1));
    let server = web(listener, 1, "for the next");
    assert_eq!(get(&vm, HOST, port), "for the next");
    server.join().unwrap();
}

/// Has a process of the guest hold a connection. It writes to `/tmp/ended` when the connection ends.
fn hold_a_connection(vm: &Vm, listener: &TcpListener) -> TcpStream {
    let port = listener.local_addr().unwrap().port();
    let hold = format!("nc {HOST} {port} <&3 >/tmp/got; echo $? >/tmp/ended");
    // Open for writing too, the pipe has no end.
    sh(vm, &format!("mkfifo /tmp/in; (exec 3<>/tmp/in; {hold}) >/dev/null 2>&1 </dev/null &"));
    accept(listener)
}

fn ends(vm: &Vm) {
    until("the connection ends", || vm.exec(["test", "-s", "/tmp/ended"]).unwrap().success());
}

/// Whether the guest receives what the host sends now.
fn arrives(vm: &Vm, connection: &mut TcpStream, text: &str) {
    connection.write_all(text.as_bytes()).unwrap();
    let script = format!("grep -q {text} /tmp/got");
    until("it arrives", || vm.exec(["sh", "-c", &script]).unwrap().success());
    assert!(!vm.exec(["test", "-e", "/tmp/ended"]).unwrap().success());
}

#[test]
fn fork_has_its_own_network_and_finds_connections_reset() {
    let (listener, port, network) = listener();
    let vm = busybox().start(&with(network.clone())).unwrap();
    let mut connection = hold_a_connection(&vm, &listener);
    arrives(&vm, &mut connection, "before");
    let with_network = vm.fork_with(2, &with(network)).unwrap();
    let without = vm.fork(1).unwrap();
    // The parent continues with its connection.
    arrives(&vm, &mut connection, "afterwards");
    for fork in with_network.iter().chain(&without) {
        ends(fork);
        assert!(sh(fork, "cat /tmp/got").starts_with("before"));
    }
    let server = web(listener, 3, "for each");
    for machine in with_network.iter().chain([&vm]) {
        assert_eq!(get(machine, HOST, port), "for each");
    }
    server.join().unwrap();
    let shown = sh(&without[0], "ip link show eth0; ip route");
    assert!(!shown.contains(",UP") && !shown.contains("default"), "{shown}");
    assert_eq!(without[0].network_stats(), None);
}

#[test]
fn snapshot_of_a_machine_with_a_network_starts_with_another_or_without() {
    let (listener, port, network) = listener();
    let vm = busybox().start(&with(network.clone())).unwrap();
    let mut connection = hold_a_connection(&vm, &listener);
    let image = vm.snapshot("net-live").unwrap().image;
    arrives(&vm, &mut connection, "afterwards");
    drop(vm);
    let server = web(listener, 2, "once more");
    let mut images = vec![image];
    for generation in 0..2 {
        let vm = images[generation].start(&with(network.clone())).unwrap();
        ends(&vm);
        assert_eq!(get(&vm, HOST, port), "once more");
        images.push(vm.snapshot(&format!("net-live-{generation}")).unwrap().image);
    }
    server.join().unwrap();
    for image in &images {
        let vm = image.start(&VmConfig::new()).unwrap();
        ends(&vm);
        fails(&vm, "ping -c 1 -W 5 198.18.0.1");
        assert_eq!(vm.network_stats(), None);
    }
}

/// A machine with this network, in the worker that is built beside the tests.
fn isolated(network: Network) -> VmConfig {
    let test = std::env::current_exe().unwrap();
    let assets = AssetPaths::from_dir(test.parent().and_then(Path::parent).unwrap());
    with(network).with_isolated(true).with_assets(assets)
}

#[test]
fn isolated_machine_with_a_network_forks() {
    let (listener, port, network) = listener();
    let config = isolated(network);
    let vm = Image::start(&busybox(), &config).unwrap();
    let fork = vm.fork_with(1, &config).unwrap().remove(0);
    let server = web(listener, 2, "from both");
    assert_eq!(
        (get(&vm, HOST, port), get(&fork, HOST, port)),
        ("from both".into(), "from both".into())
    );
    server.join().unwrap();
}

#[test]
fn isolated_machine_has_the_network_of_its_app() {
    let (listener, port, network) = listener();
    let server = web(listener, 1, "from a worker");
    let vm = Image::start(&busybox(), &isolated(network)).unwrap();
    assert_eq!(get(&vm, HOST, port), "from a worker");
    server.join().unwrap();
    assert_eq!(vm.network_stats().unwrap().sockets_opened, 1);
    vm.stop().unwrap();
}

#[test]
fn dropped_machine_closes_its_flows() {
    let (listener, port, network) = listener();
    let vm = busybox().start(&with(network)).unwrap();
    sh(&vm, &format!("(sleep 7777 | nc {HOST} {port}) > /dev/null 2>&1 < /dev/null &"));
    let mut stream = accept(&listener);
    until("it is open", || vm.network_stats().unwrap().connections == 1);
    drop(vm);
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
