//! Seven services. A client on the host asks each in its own protocol; a command in the guest asks those
//! that are used that way.

#![expect(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and prints how long the restores took"
)]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use supermachine::{Image, Vm};
use supermachine_baker::Ready;

use supermachine_test_support::machines::{bake, baked, start, succeeded};

/// Longer than any answer takes, even on a slow host.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The client itself: the search path has a Perl wrapper, which takes longer than the whole test.
const PSQL: &str = "/usr/lib/postgresql/15/bin/psql";
/// Enough for each service. With one size, all share a base.
const MEMORY_MIB: u64 = 256;

/// Restores nginx, and has it answer each time.
pub(crate) fn nginx(vcpus: u16, rounds: u32) {
    each_restore("nginx", vcpus, rounds, Ready::Auto, |vm, _| {
        let page = exposed(vm, 80, |address| client("curl", &http(address), ""));
        assert!(page.contains("<h1>Welcome to nginx!</h1>"), "{page}");
    });
}

/// Restores Apache's server, and has it answer each time.
pub(crate) fn httpd(vcpus: u16, rounds: u32) {
    each_restore("httpd", vcpus, rounds, Ready::Auto, |vm, _| {
        let page = exposed(vm, 80, |address| client("curl", &http(address), ""));
        assert!(page.contains("Default Page: It works"), "{page}");
    });
}

/// Restores redis, and has it keep a value each time.
pub(crate) fn redis(vcpus: u16, rounds: u32) {
    each_restore("redis", vcpus, rounds, Ready::Auto, |vm, round| {
        let answer = exposed(vm, 6379, |address| {
            let (host, port) = (address.ip().to_string(), address.port().to_string());
            let commands = format!("DBSIZE\nPING\nSET key {round}\nGET key\n");
            client("redis-cli", &["-h", &host, "-p", &port], &commands)
        });
        // No value of an earlier machine exists.
        assert_eq!(answer, format!("0\nPONG\nOK\n{round}\n"));
    });
}

/// Restores memcached, and has it keep a value each time.
pub(crate) fn memcached(vcpus: u16, rounds: u32) {
    each_restore("memcached", vcpus, rounds, Ready::Auto, |vm, round| {
        exposed(vm, 11211, |address| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            let mut lines = BufReader::new(&stream).lines().map(Result::unwrap);
            let value = format!("value {round}");
            let request =
                format!("get key\r\nset key 7 0 {}\r\n{value}\r\nget key\r\n", value.len());
            (&stream).write_all(request.as_bytes()).unwrap();
            let length = value.len();
            let answers = ["END", "STORED", &format!("VALUE key 7 {length}"), &value, "END"];
            for answer in answers {
                assert_eq!(lines.next().as_deref(), Some(answer));
            }
        });
    });
}

/// Restores the image of Python, and has it compute each time.
pub(crate) fn python(vcpus: u16, rounds: u32) {
    each_restore("python3", vcpus, rounds, Ready::Auto, |vm, round| {
        let script = format!("import json; print(json.dumps({{'n': {round} * 3}}))");
        let outcome = vm.exec(["python3", "-c", &script]).unwrap();
        assert_eq!(succeeded(&outcome, "python3"), format!("{{\"n\": {}}}\n", round * 3));
    });
}

/// Restores the image of Node, and has it compute each time.
pub(crate) fn node(vcpus: u16, rounds: u32) {
    each_restore("node", vcpus, rounds, Ready::Auto, |vm, round| {
        let script = format!(
            "Promise.resolve({{n: {round} * 3}}).then(v => console.log(JSON.stringify(v)))"
        );
        let outcome = vm.exec(["node", "-e", &script]).unwrap();
        assert_eq!(succeeded(&outcome, "node"), format!("{{\"n\":{}}}\n", round * 3));
    });
}

/// Restores Postgres, and has it answer queries each time.
pub(crate) fn postgres(vcpus: u16, rounds: u32) {
    let ready = "log:ready to accept connections".parse().unwrap();
    each_restore("postgres", vcpus, rounds, ready, |vm, round| {
        let answer = exposed(vm, 5432, |address| {
            let (host, port) = (address.ip().to_string(), address.port().to_string());
            let query = format!(
                "create table numbers as select generate_series(1, {round}) as n;
                select count(*), coalesce(sum(n), 0) from numbers;"
            );
            client(PSQL, &["-qAtX", "-U", "postgres", "-h", &host, "-p", &port], &query)
        });
        assert_eq!(answer, format!("{round}|{}\n", round * (round + 1) / 2));
    });
}

/// Bakes an image, restores machines from it, and asks each.
fn each_restore(name: &str, vcpus: u16, rounds: u32, ready: Ready, ask: impl Fn(&Vm, u32)) {
    let image = baked(&format!("{name}-{vcpus}"), || {
        bake(name).vcpus(vcpus).memory_mib(MEMORY_MIB).ready(ready)
    });
    assert_eq!(image.snapshot().machine.vcpus, vcpus);
    let begin = Instant::now();
    for round in 0..rounds {
        round_of(&image, round, &ask);
        if round == 0 || round + 1 == rounds {
            let (count, took) = (round + 1, begin.elapsed());
            eprintln!("{name}, {vcpus} vCPUs: {count} restores answered in {took:.1?}");
        }
    }
}

fn round_of(image: &Image, round: u32, ask: &impl Fn(&Vm, u32)) {
    /// Prints which restore did not answer.
    struct OnPanic(u32);
    impl Drop for OnPanic {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("restore {} did not answer as it should", self.0);
            }
        }
    }
    let _on_panic = OnPanic(round);
    let vm = start(image);
    ask(&vm, round);
    vm.stop().unwrap();
}

/// Makes a port of the guest reachable while a client asks.
fn exposed<T>(vm: &Vm, port: u16, ask: impl FnOnce(SocketAddr) -> T) -> T {
    let forward = vm.expose_tcp(0, port).unwrap();
    let answer = ask(forward.local_addr());
    forward.close().unwrap();
    answer
}

fn http(address: SocketAddr) -> [String; 4] {
    let limit = TIMEOUT.as_secs().to_string();
    ["-sSf".to_owned(), "--max-time".to_owned(), limit, format!("http://{address}/")]
}

/// Runs a program on the host with this input. It must succeed. Returns its output.
fn client(program: &str, arguments: &[impl AsRef<std::ffi::OsStr>], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    if !output.status.success() || !output.stderr.is_empty() {
        let _ = write!(text, "{}", String::from_utf8_lossy(&output.stderr));
        panic!("{program}: {}\n{text}", output.status);
    }
    text
}
