//! Services from a registry: baked while they run, so that they answer at once.

use std::time::{Duration, Instant};

use supermachine_baker::Ready;
use supermachine_test_support::machines::{bake, baked, sh, start, succeeded};

/// A client in bash: sends a line to a port, prints what comes back.
fn request(port: u16, line: &str) -> String {
    format!("exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{line}\\r\\n\\r\\n' >&3; cat <&3")
}

#[test]
fn nginx_answers_from_its_port() {
    let image = baked("nginx", || bake("nginx"));
    assert_eq!(image.snapshot().workload.as_ref().unwrap().exposed_ports, [80]);
    for _ in 0..3 {
        let vm = start(&image);
        let begin = Instant::now();
        let page = vm.exec(["bash", "-c", &request(80, "GET / HTTP/1.0")]).unwrap();
        eprintln!("nginx answered in {:?}", begin.elapsed());
        let page = succeeded(&page, "request");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        assert!(page.contains("Welcome to nginx!"), "{page}");
        let version = vm.exec(["nginx", "-v"]).unwrap();
        assert!(version.success() && version.stderr.starts_with(b"nginx version: nginx/"));
        vm.stop().unwrap();
    }
}

#[test]
fn nginx_is_not_ready_before_its_port_listens() {
    let image = baked("nginx-tcp", || bake("nginx").ready(Ready::Tcp(80)));
    let vm = start(&image);
    let page = vm.exec(["bash", "-c", &request(80, "HEAD / HTTP/1.0")]).unwrap();
    assert!(succeeded(&page, "request").starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn redis_answers_and_keeps_its_data() {
    let image = baked("redis", || bake("redis"));
    let vm = start(&image);
    assert_eq!(sh(&vm, "redis-cli ping"), "PONG\n");
    assert_eq!(sh(&vm, "redis-cli set key 'a value'; redis-cli get key"), "OK\na value\n");
    assert_eq!(sh(&vm, "id -un; pwd"), "redis\n/data\n");
    // A machine's data is its own.
    let other = start(&image);
    assert_eq!(sh(&other, "redis-cli get key; redis-cli dbsize"), "\n0\n");
}

#[test]
fn data_from_before_the_capture_survives_a_restore() {
    // The readiness command sets the value, so the machine is ready once that works.
    let words = ["redis-cli", "set", "early", "bird"].map(str::to_owned).to_vec();
    let image = baked("redis-data", || bake("redis").ready(Ready::Exec(words)));
    for _ in 0..2 {
        assert_eq!(sh(&start(&image), "redis-cli get early"), "bird\n");
    }
}

#[test]
fn python_computes_and_serves_itself() {
    let image = baked("python3", || bake("python3"));
    let vm = start(&image);
    let outcome = vm.exec(["python3", "-c", "print(6*7)"]).unwrap();
    assert_eq!(succeeded(&outcome, "python"), "42\n");
    let script = "
import threading, http.server, urllib.request
server = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(urllib.request.urlopen(f'http://localhost:{server.server_port}/etc/hostname').read().decode(), end='')
server.shutdown()";
    let builder = vm.exec_builder().argv(["python3", "-c", script]).cwd("/");
    let outcome = builder.timeout(Duration::from_secs(120)).output().unwrap();
    assert_eq!(succeeded(&outcome, "server"), "supermachine\n");
}

#[test]
fn python_finds_the_kernel_features_it_needs() {
    let vm = start(&baked("python3", || bake("python3")));
    let script = "
import os, multiprocessing, socket, ssl, tempfile, threading, time
with multiprocessing.Pool(2) as pool: assert pool.map(abs, [-1, -2]) == [1, 2]
assert os.environ['LANG'] == 'C.UTF-8'
a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'
with tempfile.TemporaryFile() as f: f.truncate(1 << 20); assert os.fstat(f.fileno()).st_size == 1 << 20
r, w = os.openpty(); assert os.isatty(w)
assert len({os.urandom(16), os.urandom(16)}) == 2
event = threading.Event(); assert not event.wait(0.01)
print('ok')";
    let builder = vm.exec_builder().argv(["python3", "-c", script]);
    let outcome = builder.timeout(Duration::from_secs(120)).output().unwrap();
    assert_eq!(succeeded(&outcome, "script"), "ok\n");
}

/// The image's own script checks whiteouts, links, owners, modes, times, capabilities and sparse files.
#[test]
fn every_kind_of_layer_entry_is_preserved() {
    let image = baked("layers", || bake("layers").ready(Ready::Exit));
    let vm = start(&image);
    let outcome = vm.exec(["check"]).unwrap();
    assert_eq!(succeeded(&outcome, "check"), "ok\n");
    assert_eq!(sh(&vm, "pwd; echo $TEST; hostname"), "/owner\nlayers\nsupermachine\n");
}
