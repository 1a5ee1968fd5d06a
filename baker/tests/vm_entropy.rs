//! Random values of programs that drew from the kernel before the snapshot: equal in all machines of it
//! without a hook, and different with one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use supermachine::{Image, Vm};
use supermachine_baker::oci::Event;
use supermachine_baker::{Observer, OciImageBuilder, Ready, SweepOptions, Warning};
use supermachine_test_support::machines::{
    bake, baked, expect_baked, folder, start, store, succeeded,
};

const PORT: u16 = 8080;
const MEMORY_MIB: u64 = 256;
/// A compiler under an emulated hypervisor takes minutes.
const COMPILING: Duration = Duration::from_secs(1200);

/// Each answer is a random value of the process's own.
const NODE: &str = "const { randomUUID } = require('crypto'); randomUUID();
    require('http').createServer((request, answer) => answer.end(randomUUID())).listen(8080);";

/// Each answer has a value of Python's generator and one of OpenSSL's, which `USR1` seeds again.
const PYTHON: &str = "
import http.server, os, random, signal, ssl
random.random(), ssl.RAND_bytes(1)
def again(*_):
    random.seed()
    ssl.RAND_add(os.urandom(32), 32.0)
signal.signal(signal.SIGUSR1, again)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f'{random.random()} {ssl.RAND_bytes(16).hex()}'.encode())
http.server.HTTPServer(('127.0.0.1', 8080), Handler).serve_forever()
";

/// Waits for changes of the generation file, and draws a token after each.
const WATCHING: &str = "
import ctypes, http.server, os, secrets, threading
libc = ctypes.CDLL(None, use_errno=True)
watch = libc.inotify_init()
assert libc.inotify_add_watch(watch, b'/run/supermachine/generation', 2) >= 0
def follow():
    while os.read(watch, 4096):
        with open('/run/supermachine/generation') as file, open('/tmp/seen', 'w') as seen:
            seen.write(file.read())
threading.Thread(target=follow).start()
http.server.HTTPServer(('127.0.0.1', 8080), http.server.BaseHTTPRequestHandler).serve_forever()
";

/// An id for each request, from OpenSSL's generator in a worker process.
const NGINX: &str = "server { listen 8080; location / { return 200 $request_id; } }";

/// Each answer has values of the generator that `Math.random()` draws from.
const JAVA: &str = r#"
import java.net.ServerSocket;

public class Server {
    public static void main(String[] arguments) throws Exception {
        Math.random();
        try (var listener = new ServerSocket(8080)) {
            while (true) {
                try (var socket = listener.accept()) {
                    socket.getInputStream().read(new byte[4096]);
                    var answer = "HTTP/1.0 200 OK\r\n\r\n" + Math.random() + " " + Math.random();
                    socket.getOutputStream().write(answer.getBytes());
                }
            }
        }
    }
}
"#;

/// Each answer has a value of the generator that the program seeded, and one of the kernel's.
const GO: &str = r#"
package main

import (
	secure "crypto/rand"
	"fmt"
	"math/rand"
	"net/http"
	"time"
)

func main() {
	rand.Seed(time.Now().UnixNano())
	http.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) {
		drawn := make([]byte, 16)
		secure.Read(drawn)
		fmt.Fprintf(answer, "%016x%016x %x", rand.Uint64(), rand.Uint64(), drawn)
	})
	http.ListenAndServe("127.0.0.1:8080", nil)
}
"#;

fn server(image: &str, argv: [&str; 3]) -> OciImageBuilder {
    bake(image).memory_mib(MEMORY_MIB).entrypoint(argv).ready(Ready::Tcp(PORT))
}

/// A server that the image's compiler makes when it starts.
fn compiled(image: &str, script: &str) -> OciImageBuilder {
    let server = server(image, ["sh", "-ec", script]).memory_mib(1024);
    server.ready_timeout(COMPILING).after_restore_timeout(COMPILING)
}

fn with_hook(builder: OciImageBuilder, action: Option<&str>) -> OciImageBuilder {
    match action {
        Some(action) => builder.after_restore(action.parse().unwrap()),
        None => builder,
    }
}

/// Asks the server of a machine, by a client in bash.
fn ask(vm: &Vm) -> String {
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{PORT}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    );
    let answer = succeeded(&vm.exec(["bash", "-c", &script]).unwrap(), "request");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{head}");
    assert!(body.len() >= 32, "{body}");
    body.to_owned()
}

/// The answers of two machines of a snapshot.
///
/// It is removed then: all of them at once fill the memory of an emulated host.
fn answers(name: &str, builder: OciImageBuilder) -> [String; 2] {
    expect_baked(builder.name(name).bake(store()));
    let image = store().image(name).unwrap();
    let answers = [start(&image), start(&image)].map(|vm| ask(&vm));
    drop(image);
    store().remove(name).unwrap();
    store().sweep(SweepOptions::default(), || {}).unwrap();
    answers
}

/// Compares the answers of two machines, without and with the hook.
fn compare(name: &str, action: &str, describe: impl Fn() -> OciImageBuilder) {
    let [one, other] = answers(name, describe());
    assert_eq!(one, other, "{name} without a hook");
    let [one, other] = answers(name, with_hook(describe(), Some(action)));
    assert_ne!(one, other, "{name} with {action}");
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn node_has_ids_of_its_own_after_a_restart() {
    compare("node", "restart", || server("node", ["node", "-e", NODE]));
}

#[test]
fn python_and_openssl_are_seeded_again_by_a_signal() {
    let describe = || server("python3", ["python3", "-c", PYTHON]);
    compare("python", "signal:USR1", describe);
    // Both generators differ, not only one of them.
    let [one, other] = answers("python", with_hook(describe(), Some("signal:USR1")));
    for (one, other) in one.split(' ').zip(other.split(' ')) {
        assert_ne!(one, other);
    }
}

/// Keeps what a bake warns of.
#[derive(Default)]
struct Warnings(Mutex<Vec<Warning>>);

impl Observer for Warnings {
    fn step(&self, _: &str) {}

    fn fetch(&self, _: Event<'_>) {}

    fn warn(&self, warning: &Warning) {
        self.0.lock().unwrap().push(warning.clone());
    }
}

#[test]
fn bake_warns_of_random_generators_unless_something_runs_after_a_restore() {
    let warnings = |action| {
        let kept = Arc::new(Warnings::default());
        let describe = || server("python3", ["python3", "-uc", PYTHON]);
        let builder = with_hook(describe(), action).name("warned");
        expect_baked(builder.observer(Arc::clone(&kept) as Arc<_>).bake(store()));
        kept.0.lock().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let [warning] = warnings(None).try_into().unwrap();
    assert!(warning.contains("python3 (OpenSSL), python3 (Python)"), "{warning}");
    for action in ["signal:USR1", "none"] {
        assert_eq!(warnings(Some(action)), [""; 0], "{action}");
    }
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn nginx_has_request_ids_of_its_own_after_a_restart() {
    compare("nginx", "restart", || {
        let path = folder().join("ids.conf");
        fs::write(&path, NGINX).unwrap();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{PORT}; echo 'GET /' >&3; cat <&3");
        bake("nginx")
            .memory_mib(MEMORY_MIB)
            .file("/etc/nginx/conf.d/ids.conf", &path)
            .ready(Ready::Tcp(PORT))
            // The first request seeds the worker's generator.
            .with_warmup_commands([["bash", "-c", script.as_str()]])
    });
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn java_draws_numbers_of_its_own_after_a_restart() {
    let path = folder().join("Server.java");
    fs::write(&path, JAVA).unwrap();
    compare("java", "restart", || {
        compiled("openjdk", "java -Xmx64m /srv/Server.java").file("/srv/Server.java", &path)
    });
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn go_draws_numbers_of_its_own_after_a_restart_and_secure_ones_always() {
    let path = folder().join("server.go");
    fs::write(&path, GO).unwrap();
    let script = "export GOCACHE=/tmp/cache CGO_ENABLED=0
        test -x /tmp/server || go build -o /tmp/server /srv/server.go
        exec /tmp/server";
    let describe = || compiled("golang", script).file("/srv/server.go", &path);
    let words = |action| {
        answers("go", with_hook(describe(), action))
            .map(|answer| answer.split(' ').map(str::to_owned).collect::<Vec<_>>())
    };
    let [one, other] = words(None);
    assert_eq!(one[0], other[0], "the program's own generator without a hook");
    assert_ne!(one[1], other[1], "the kernel's generator");
    let [one, other] = words(Some("restart"));
    assert_ne!(one[0], other[0], "the program's own generator after a restart");
}

fn postgres() -> Image {
    let ready = "log:ready to accept connections".parse().unwrap();
    baked("postgres", || bake("postgres").memory_mib(MEMORY_MIB).ready(ready))
}

#[test]
fn openssl_command_seeds_itself_at_each_run() {
    let image = postgres();
    let draw = |vm: &Vm| succeeded(&vm.exec(["openssl", "rand", "-hex", "16"]).unwrap(), "openssl");
    assert_ne!(draw(&start(&image)), draw(&start(&image)));
}

#[test]
fn postgres_seeds_each_session_by_itself() {
    let image = postgres();
    let query = ["psql", "-U", "postgres", "-qAtXc", "select gen_random_uuid(), random()"];
    let ask = |vm: &Vm| succeeded(&vm.exec(query).unwrap(), "psql");
    assert_ne!(ask(&start(&image)), ask(&start(&image)));
}

#[test]
fn change_of_the_generation_file_can_be_watched() {
    let image = baked("watching", || server("python3", ["python3", "-c", WATCHING]));
    let script = "until test -s /tmp/seen; do sleep 0.05; done; cat /tmp/seen; \
        cmp /tmp/seen /run/supermachine/generation";
    let seen = [start(&image), start(&image)]
        .map(|vm| succeeded(&vm.exec(["bash", "-c", script]).unwrap(), "watch"));
    assert_ne!(seen[0], seen[1]);
}
