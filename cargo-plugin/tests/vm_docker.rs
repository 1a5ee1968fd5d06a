//! What Docker's users ask of `run` and of machines in the background: read-only roots, file systems in memory,
//! limits, restarts, other names, events. On real images from the test registry.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Done, Home};

/// The entrypoint of `worker`. It exits with the status that a command writes.
const WORKER: &str =
    "echo begun; until [ -e /tmp/exit ]; do sleep 0.1; done; exit $(cat /tmp/exit)";
/// How long a state may take to come, under emulation.
const PATIENCE: Duration = Duration::from_secs(120);

/// Lives as long as the process. Statics are not dropped, so its folder stays among the host's temporary
/// files.
static HOME: LazyLock<Home> = LazyLock::new(|| {
    let home = Home::with_assets();
    home.run(&["pull", "--memory", "128", "--name", "bb", &image()]).succeeds();
    let pull = ["pull", "--memory", "128", "--name", "worker", "--entrypoint", "/bin/sh"];
    let rest = ["--ready", "log:begun", &image(), "--", "-c", WORKER];
    home.run(&[&pull[..], &rest[..]].concat()).succeeds();
    home
});

fn image() -> String {
    image_of("busybox")
}

fn image_of(name: &str) -> String {
    let registry = std::env::var("SUPERMACHINE_TEST_REGISTRY")
        .expect("SUPERMACHINE_TEST_REGISTRY is the test registry");
    format!("{registry}/{name}:latest")
}

/// A machine that is stopped at the end of the test, even if the test fails.
struct Machine(String);

impl Machine {
    fn start(name: &str, options: &[&str], snapshot: &[&str]) -> Self {
        let done = HOME.run(&[&["run", "-d", "--name", name], options, snapshot].concat());
        assert_eq!(done.succeeds(), format!("{name}\n"));
        Self(name.to_owned())
    }

    fn exec(&self, script: &str) -> Done {
        HOME.run(&["exec", &self.0, "--", "sh", "-c", script])
    }

    /// Ends the entrypoint of `worker`.
    fn exit_with(&self, status: u8) {
        // It may exit, and the machine with it, before the command does.
        let _ = self.exec(&format!("echo {status} > /tmp/new; mv /tmp/new /tmp/exit"));
    }

    fn row(&self) -> Option<Value> {
        rows().into_iter().find(|row| row["name"] == *self.0)
    }

    /// Waits until its row in `ps` is as wanted.
    fn wait_for(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let row = self.row().unwrap_or_default();
            if wanted(&row) {
                return row;
            }
            assert!(begin.elapsed() < PATIENCE, "{row}");
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The test may have stopped it.
        let _ = HOME.run(&["stop", "--time", "0", &self.0]);
    }
}

fn rows() -> Vec<Value> {
    serde_json::from_str(HOME.run(&["ps", "--json"]).succeeds()).unwrap()
}

/// The actions of a machine's events, with the exit codes and old names.
fn events(name: &str) -> Vec<String> {
    let filter = format!("machine={name}");
    let done = HOME.run(&["events", "--json", "--since", "1h", "--until", "0s", "-f", &filter]);
    let event = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        let about = &event["Actor"]["Attributes"];
        let more = ["exitCode", "oldName"].map(|key| about[key].as_str().unwrap_or_default());
        format!("{} {}", event["Action"].as_str().unwrap(), more.concat()).trim().to_owned()
    };
    done.succeeds().lines().map(event).collect()
}

#[test]
fn root_is_read_only_and_mounts_are_writable() {
    let script = "touch /x || touch /etc/x || touch /run/supermachine/x; \
                  stat -c %a /scratch; echo kept > /scratch/a; cat /scratch/a; \
                  dd if=/dev/zero of=/scratch/big bs=64k count=32 2>&1 | grep -o 'No space left'; \
                  dd if=/dev/zero of=/dev/shm/big bs=64k count=32 2>&1 | grep -o 'No space left'; \
                  cp /bin/busybox /programs; /programs/busybox echo run; \
                  cp /bin/busybox /scratch/b; rm /scratch/big; /scratch/b echo run; \
                  echo x > /dev/null; cat /etc/hostname; wc -c < /run/supermachine/generation";
    let options = ["run", "-m", "128", "--read-only", "--shm-size", "1m", "--hostname", "other"];
    let mounts = ["--tmpfs", "/scratch:size=1m,mode=700", "--tmpfs", "/programs:exec"];
    let image = image();
    let run = || HOME.run(&[&options[..], &mounts, &[&image, "--", "sh", "-c", script]].concat());
    let first = run();
    let shown = "700\nkept\nNo space left\nNo space left\nrun\nother\n33\n";
    assert_eq!(first.succeeds(), shown, "{first:?}");
    assert_eq!(first.stderr.matches("Read-only file system").count(), 3, "{first:?}");
    assert!(first.stderr.contains("pulling it"), "{first:?}");
    // The same options find the snapshot again.
    let again = run();
    assert_eq!(again.succeeds(), shown);
    assert!(!again.stderr.contains("pulling it"), "{again:?}");
    assert!(HOME.names().iter().any(|name| name.starts_with("busybox--128m-ro-mounts-")));
}

#[test]
fn volumes_begin_with_the_images_files_and_are_writable_in_a_read_only_root() {
    let script = "touch /x 2>/dev/null || echo refused; stat -c '%a %u:%g %n' /data /new/deep \
                  /srv/old /srv/old/kept; cat /link/kept /srv/old/inner/file; \
                  for i in /data /new/deep /srv/old /srv/old/inner; do touch $i/x; ls $i; done; \
                  echo more >>/link/kept; rm /srv/old/inner/file; cat /srv/old/kept; \
                  grep -cE ' /(data|new/deep|srv/old|srv/old/inner) ' /proc/mounts; \
                  grep -c '^tmpfs /scratch ' /proc/mounts; \
                  mkdir /data/upper /data/work && mount -t overlay \
                  -o lowerdir=/bin,upperdir=/data/upper,workdir=/data/work overlay /mnt && echo layered";
    let shown = "750 1000:50 /data\n755 0:0 /new/deep\n711 0:0 /srv/old\n640 1000:50 /srv/old/kept\n\
                 of the image\ninner\nx\nx\ninner\nkept\nx\nfile\nx\nof the image\nmore\n\
                 4\n1\nlayered\n";
    let image = image_of("volumes");
    let run = |option: &str| {
        let options =
            ["run", "-m", "128", "--tmpfs", "/scratch:size=1m", "--tmpfs", "/mnt", option];
        HOME.run(&[&options[..], &[&image, "sh", "-c", script]].concat())
    };
    assert_eq!(run("--quiet").succeeds(), shown);
    // Each machine has its own.
    assert_eq!(run("--quiet").succeeds(), shown);
    assert_eq!(run("--read-only").succeeds(), format!("refused\n{shown}"));
}

#[test]
fn read_only_root_holds_for_the_entrypoint_commands_and_copies() {
    let script = "touch /x 2>/dev/null || echo refused; ulimit -n; echo own > /tmp/y; pwd; \
                  echo ready; sleep 1000";
    let (image, name) = (image(), "ro");
    let options = ["-m", "128", "--read-only", "--tmpfs", "/tmp", "--ulimit", "nofile=64:128"];
    let options = [&options[..], &["-w", "/new/folder"]].concat();
    let machine = Machine::start(name, &options, &[&image, "sh", "-c", script]);
    assert_eq!(HOME.run(&["logs", name]).succeeds(), "refused\n64\n/new/folder\nready\n");
    let done = machine.exec("touch /x; cat /tmp/y; ulimit -n; ulimit -Hn; stat -c %a /tmp");
    assert!(done.stderr.contains("Read-only file system"), "{done:?}");
    assert_eq!(done.stdout, "own\n64\n128\n1777\n", "{done:?}");
    let limited = ["exec", "--ulimit", "nofile=32", name, "--", "sh", "-c", "ulimit -n"];
    assert_eq!(HOME.run(&limited).succeeds(), "32\n");
    let file = HOME.path("to-copy");
    fs::write(&file, "of the host").unwrap();
    let file = file.display().to_string();
    HOME.run(&["cp", &file, "ro:/x"]).fails(1, &["read-only file system"]);
    HOME.run(&["cp", &file, "ro:/tmp/z"]).succeeds();
    assert_eq!(machine.exec("cat /tmp/z").succeeds(), "of the host");
    HOME.run(&["exec", "-w", "/missing", name, "true"]).fails(125, &["read-only file system"]);
}

#[test]
fn limits_of_a_command_need_no_snapshot_of_their_own() {
    let script = "ulimit -n; ulimit -Hn; ulimit -c";
    let limits = ["--ulimit", "nofile=64:128", "--ulimit", "core=0"];
    let done = HOME.run(&[&["run"], &limits[..], &["bb", "--", "sh", "-c", script]].concat());
    assert_eq!((done.succeeds(), &*done.stderr), ("64\n128\n0\n", ""));
    assert_eq!(HOME.run(&["run", "bb", "--", "sh", "-c", "ulimit -n"]).succeeds(), "1024\n");
}

#[test]
fn failed_entrypoint_starts_again_as_often_as_was_asked_for() {
    let machine =
        Machine::start("failing", &["--restart", "on-failure:1", "-p", "80"], &["worker"]);
    let address = HOME.run(&["port", "failing"]).succeeds().to_owned();
    let mut waiting = HOME.command(&["wait", "failing"]).stdout(Stdio::piped()).spawn().unwrap();
    machine.exec("touch /tmp/old").succeeds();
    machine.exit_with(3);
    let row = machine.wait_for(|row| row["restarts"] == 1 && row["state"] == "running");
    assert_eq!(row["restart"], "on-failure:1", "{row}");
    assert_eq!(HOME.run(&["port", "failing"]).succeeds(), address);
    assert_eq!(machine.exec("ls /tmp").succeeds(), "");
    assert_eq!(waiting.try_wait().unwrap(), None);
    // The output of both starts is kept.
    assert_eq!(HOME.run(&["logs", "failing"]).succeeds(), "begun\nbegun\n");
    machine.exit_with(4);
    let row = machine.wait_for(|row| row["state"] == "exited");
    assert_eq!((&row["restarts"], &row["reason"]), (&1.into(), &"exit code 4".into()), "{row}");
    assert_eq!(waiting.wait_with_output().unwrap().stdout, b"4\n");
    HOME.run(&["stop", "failing"]).succeeds();
    assert_eq!(events("failing"), ["start", "die 3", "start", "die 4", "stop"]);
    assert_eq!(HOME.run(&["logs", "failing"]).succeeds(), "begun\nbegun\n");
}

#[test]
fn stop_ends_a_machine_that_always_starts_again() {
    let machine = Machine::start("always", &["--restart", "always"], &["worker"]);
    machine.exit_with(0);
    machine.wait_for(|row| row["restarts"] == 1 && row["state"] == "running");
    HOME.run(&["stop", "--time", "100", "always"]).succeeds();
    assert!(machine.row().is_none());
    assert_eq!(HOME.run(&["wait", "always"]).succeeds(), "143\n");
    let all = events("always");
    assert_eq!(all, ["start", "die 0", "start", "kill", "die 143", "stop"]);
    HOME.run(&["rm", "always"]).succeeds();
    assert_eq!(events("always").last().unwrap(), "destroy");
}

#[test]
fn machine_that_cannot_start_again_yet_tries_until_it_is_stopped() {
    let options = ["--restart", "unless-stopped", "-p", "80"];
    let machine = Machine::start("waits", &options, &["worker"]);
    let port = machine.row().unwrap()["ports"][0]["host"].as_str().unwrap().to_owned();
    // The port is free while the machine does not run, and then taken.
    let taker = std::thread::spawn(move || {
        loop {
            match TcpListener::bind(&port) {
                Ok(listener) => return listener,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    });
    machine.exit_with(1);
    let taken = taker.join().unwrap();
    let row = machine.wait_for(|row| {
        row["state"] == "restarting" && row["restarts"].as_u64().is_some_and(|count| count > 2)
    });
    assert!(row["reason"].as_str().unwrap().contains("exit code 1, starts in"), "{row}");
    HOME.run(&["exec", "waits", "true"]).fails(125, &["about to start again"]);
    drop(taken);
    machine.wait_for(|row| row["state"] == "running");
    assert_eq!(machine.exec("echo well").succeeds(), "well\n");
    HOME.run(&["stop", "waits"]).succeeds();
    assert!(machine.row().is_none());
}

#[test]
fn renamed_machine_is_the_same_by_another_name() {
    let machine = Machine::start("first", &["--label", "tier=back"], &["worker"]);
    let other = Machine::start("other", &[], &["bb"]);
    let pid = machine.row().unwrap()["pid"].clone();
    let job = "until [ -e /tmp/go ]; do sleep 0.1; done; exit 5";
    assert_eq!(HOME.run(&["exec", "-d", "first", "--", "sh", "-c", job]).succeeds(), "first/1\n");
    let mut waiting = HOME.command(&["wait", "first/1"]).stdout(Stdio::piped()).spawn().unwrap();
    HOME.run(&["rename", "first", "other"]).fails(1, &["a machine other runs already"]);
    HOME.run(&["rename", "first", "first"]).fails(1, &["already has the name first"]);
    HOME.run(&["rename", "first", "../x"]).fails(1, &["is not a machine name"]);
    HOME.run(&["rename", "nosuch", "x"]).fails(1, &["no machine \"nosuch\" runs"]);
    HOME.run(&["rename", "first", "second"]).succeeds();
    let renamed = Machine("second".into());
    assert!(machine.row().is_none());
    assert_eq!(renamed.row().unwrap()["pid"], pid);
    HOME.run(&["exec", "first", "true"]).fails(125, &["no machine \"first\" runs"]);
    assert_eq!(HOME.run(&["logs", "second"]).succeeds(), "begun\n");
    renamed.exec("touch /tmp/go").succeeds();
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    assert_eq!(HOME.run(&["wait", "second/1"]).succeeds(), "5\n");
    // The old name is free, and a machine that gets it is not disturbed by the end of the renamed one. A
    // supervisor looks for its folder every ten seconds.
    let next = Machine::start("first", &[], &["bb"]);
    std::thread::sleep(Duration::from_secs(11));
    assert_eq!(renamed.row().unwrap()["pid"], pid);
    HOME.run(&["stop", "--time", "0", "second"]).succeeds();
    assert!(renamed.row().is_none());
    assert_eq!(next.exec("echo well").succeeds(), "well\n");
    assert_eq!(HOME.run(&["logs", "second"]).succeeds(), "begun\n");
    HOME.run(&["rename", "second", "third"]).succeeds();
    assert_eq!(HOME.run(&["logs", "third"]).succeeds(), "begun\n");
    HOME.run(&["logs", "second"]).fails(1, &["no machine \"second\" runs"]);
    let seen = events("second");
    assert_eq!(seen, ["rename first", "kill", "die 137", "stop", "rename second"]);
    drop((machine, other));
}

fn next_action(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> String {
    let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    event["Action"].as_str().unwrap().to_owned()
}

fn follow(filter: &str) -> Child {
    // A follower may start later than what it is to see.
    let mut command = HOME.command(&["events", "--since", "1h", "--format", "json", "-f", filter]);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn events_are_followed_and_survive_a_killed_supervisor() {
    let mut follower = follow("label=watched=yes");
    let mut dead = follow("machine=victim");
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut dead_lines = BufReader::new(dead.stdout.take().unwrap()).lines();
    let machine = Machine::start("victim", &["--label", "watched=yes"], &["worker"]);
    for command in ["pause", "unpause"] {
        HOME.run(&[command, "victim"]).succeeds();
    }
    HOME.run(&["kill", "-s", "CONT", "victim"]).succeeds();
    for expected in ["start", "pause", "unpause", "kill"] {
        assert_eq!(next_action(&mut lines), expected);
        assert_eq!(next_action(&mut dead_lines), expected);
    }
    let pid = machine.row().unwrap()["pid"].to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    // Nobody else asks: the follower itself notices.
    assert_eq!(next_action(&mut dead_lines), "die");
    assert_eq!(events("victim").last().unwrap(), "die 137");
    for mut child in [follower, dead] {
        assert_eq!(support::interrupt(&mut child), Some(2));
    }
    let text = HOME.run(&["events", "--since", "1h", "--until", "0s", "-f", "event=pause"]);
    let line = text.succeeds().lines().next().unwrap();
    let expected = "Z machine pause victim (image=";
    assert!(line.contains(expected) && line.ends_with("watched=yes)"), "{line}");
}

/// Answers datagrams on port 7000.
const DATAGRAMS: &str = "import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('', 7000))
print('begun', flush=True)
while True:
    content, source = server.recvfrom(65536)
    server.sendto(b'heard ' + content, source)
";

/// Sends a datagram until it is answered.
fn is_heard(address: SocketAddr, content: &str) -> bool {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        client.send_to(content.as_bytes(), address).unwrap();
        let mut answer = [0; 100];
        if let Ok((count, source)) = client.recv_from(&mut answer) {
            return source == address && answer[..count] == *format!("heard {content}").as_bytes();
        }
    }
    false
}

#[test]
fn udp_ports_are_published_beside_tcp_ports() {
    let pull = ["pull", "--memory", "256", "--name", "datagrams", "--entrypoint", "python3"];
    let image = image_of("python3");
    let rest = ["--ready", "log:begun", &image, "--", "-c", DATAGRAMS];
    HOME.run(&[&pull[..], &rest[..]].concat()).succeeds();
    let done =
        HOME.run(&["run", "-d", "--name", "udp", "-p", "7000/udp", "-p", "7000", "datagrams"]);
    assert_eq!(done.succeeds(), "udp\n");
    let machine = Machine("udp".into());
    let row = machine.row().unwrap();
    let port = |index: usize, key: &str| row["ports"][index][key].as_str().unwrap().to_owned();
    assert_eq!([port(0, "protocol"), port(1, "protocol")], ["udp", "tcp"], "{row}");
    let (udp, tcp) = (port(0, "host"), port(1, "host"));
    assert!(done.stderr.contains(&format!("{udp} leads to UDP port 7000\n")), "{done:?}");
    let all = HOME.run(&["port", "udp"]);
    assert_eq!(all.succeeds(), format!("7000/udp -> {udp}\n7000/tcp -> {tcp}\n"));
    assert_eq!(HOME.run(&["port", "udp", "7000/udp"]).succeeds(), format!("{udp}\n"));
    assert_eq!(HOME.run(&["port", "udp", "7000"]).succeeds(), format!("{tcp}\n"));
    HOME.run(&["port", "udp", "53/udp"]).fails(1, &["port 53/udp", "is not published"]);
    assert!(HOME.run(&["ps"]).succeeds().contains(&format!("{udp}->7000/udp,{tcp}->7000/tcp")));
    let address = udp.parse().unwrap();
    assert!(is_heard(address, "hello"));
    HOME.run(&["restart", "udp"]).succeeds();
    assert_eq!(HOME.run(&["port", "udp", "7000/udp"]).succeeds(), format!("{udp}\n"));
    assert!(is_heard(address, "hello again"));
}

#[test]
fn udp_port_of_a_machine_in_the_foreground_is_published() {
    let run = ["run", "-p", "127.0.0.1::7000/udp", "bb", "--", "sleep", "1000000"];
    let mut command = HOME.command(&run);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    let (address, port) = line.trim_end().split_once(" leads to ").unwrap();
    assert_eq!(port, "UDP port 7000");
    let address: SocketAddr = address.parse().unwrap();
    assert_eq!(UdpSocket::bind(address).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    child.kill().unwrap();
    child.wait().unwrap();
    UdpSocket::bind(address).unwrap();
}
