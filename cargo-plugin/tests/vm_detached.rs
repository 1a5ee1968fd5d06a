//! Machines in the background: `run -d`, `ps`, `exec`, `logs`, `stop`, `cp`, on real images from the
//! test registry.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/layout.rs"]
mod layout;
mod support;
#[path = "vm_detached/terminal.rs"]
mod terminal;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use serde_json::Value;
use support::{Done, Home, files};

/// The entrypoint of `svc`. It writes to both streams, and exits with 7 on the stop signal. Only followers
/// of its logs see what it writes then.
const SERVICE: &str = "trap 'echo asked; exit 7' TERM; echo begun; echo aside >&2; \
                       echo ready; while :; do sleep 0.1; done";

/// Lives as long as the process. Statics are not dropped, so its folder stays among the host's temporary
/// files.
static HOME: LazyLock<Home> = LazyLock::new(|| {
    let home = Home::with_assets();
    let busybox = image("busybox");
    home.run(&["pull", "--memory", "128", "--name", "bb", &busybox]).succeeds();
    let pull = ["pull", "--memory", "128", "--name", "svc", "--entrypoint", "/bin/sh"];
    let rest = ["--ready", "log:ready", &busybox, "--", "-c", SERVICE];
    home.run(&[&pull[..], &rest[..]].concat()).succeeds();
    home
});

fn image(name: &str) -> String {
    let registry = std::env::var("SUPERMACHINE_TEST_REGISTRY")
        .expect("SUPERMACHINE_TEST_REGISTRY is the test registry");
    format!("{registry}/{name}")
}

/// A machine that is stopped at the end of the test, even if the test fails.
struct Machine {
    name: String,
}

impl Machine {
    fn start(name: &str, snapshot: &str, more: &[&str]) -> Self {
        let done = HOME.run(&[&["run", "-d", "--name", name], more, &[snapshot]].concat());
        assert_eq!(done.succeeds(), format!("{name}\n"));
        Self { name: name.to_owned() }
    }

    fn exec(&self, words: &[&str]) -> Done {
        HOME.run(&[&["exec", &self.name, "--"], words].concat())
    }

    fn row(&self) -> Option<Value> {
        rows().into_iter().find(|row| row["name"] == *self.name)
    }

    fn pid(&self) -> u64 {
        self.row().unwrap()["pid"].as_u64().unwrap()
    }

    fn stop(&self) -> Done {
        HOME.run(&["stop", "--time", "0", &self.name])
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The test may have stopped it.
        let _ = self.stop();
    }
}

fn rows() -> Vec<Value> {
    let done = HOME.run(&["ps", "--json"]);
    serde_json::from_str::<Vec<Value>>(done.succeeds()).unwrap()
}

fn kill(signal: &str, pid: u64) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// Waits for a process that is not a child of this one.
fn wait_for_end(pid: u64) {
    // A pipe would stay open in other processes, so poll.
    while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line
}

#[test]
fn machine_outlives_its_starter_and_keeps_its_files_until_it_is_stopped() {
    let machine = Machine::start("life", "bb", &[]);
    let done = machine.exec(&["sh", "-c", "echo kept > /tmp/x; echo out; echo err >&2; exit 3"]);
    assert_eq!((done.status, &*done.stdout, &*done.stderr), (3, "out\n", "err\n"));
    assert_eq!(machine.exec(&["cat", "/tmp/x"]).succeeds(), "kept\n");
    let pid = machine.pid();
    assert_eq!(HOME.run(&["stop", "life"]).succeeds(), "");
    wait_for_end(pid);
    assert!(machine.row().is_none());
    assert!(!HOME.runtime().join("supermachine/machines/life").exists());
    machine.exec(&["true"]).fails(125, &["no machine \"life\" runs", "supermachine ps"]);
    HOME.run(&["stop", "life"]).fails(1, &["no machine \"life\" runs"]);
}

#[test]
fn exec_takes_input_environment_directory_user_and_time_out() {
    let machine = Machine::start("input", "bb", &[]);
    let input: String = (1..=30_000).map(|number| format!("{number}\n")).collect();
    let done =
        HOME.run_with_input(&["exec", "-i", "input", "--", "sh", "-c", "cat; exit 4"], &input);
    assert_eq!(done.status, 4);
    assert!(done.stdout == input, "{} bytes", done.stdout.len());
    let quiet = HOME.run_with_input(&["exec", "input", "--", "wc", "-c"], "unread");
    assert_eq!(quiet.succeeds(), "0\n");
    let options = ["exec", "-e", "A=b", "-w", "/tmp", "-u", "1000:1001", "input", "--"];
    let script = ["sh", "-c", "echo $A; pwd; id -u; id -g"];
    assert_eq!(HOME.run(&[&options[..], &script[..]].concat()).succeeds(), "b\n/tmp\n1000\n1001\n");
    let slow = HOME.run(&["exec", "--timeout", "1", "input", "--", "sleep", "1000"]);
    slow.fails(124, &["killed after 1.0 s"]);
    machine.exec(&["nosuch"]).fails(127, &["nosuch: no such program"]);
    machine.exec(&["/etc"]).fails(126, &["/etc: cannot be executed"]);
}

#[test]
fn command_ends_with_the_exec_that_runs_it() {
    let machine = Machine::start("mid", "bb", &[]);
    let mut command = HOME.command(&["exec", "mid", "--", "sh", "-c", "echo begun; sleep 54321"]);
    let mut client = command.stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(first_line(&mut client), "begun\n");
    let find = "ps | grep -q 'sleep 5432[1]'";
    machine.exec(&["sh", "-c", find]).succeeds();
    client.kill().unwrap();
    client.wait().unwrap();
    machine.exec(&["sh", "-c", &format!("while {find}; do sleep 0.1; done")]).succeeds();
}

#[test]
fn name_is_one_machines_and_another_gets_a_number() {
    let first = HOME.run(&["run", "-d", "bb"]);
    let name = first.succeeds().trim().to_owned();
    let first = Machine { name };
    let second = HOME.run(&["run", "-d", "bb"]);
    let second = Machine { name: second.succeeds().trim().to_owned() };
    assert_ne!(first.name, second.name);
    assert!(second.name.starts_with("bb"));
    let taken = HOME.run(&["run", "-d", "--name", &first.name, "bb"]);
    taken.fails(125, &["runs already", "--name"]);
    assert_eq!(first.exec(&["echo", "well"]).succeeds(), "well\n");
}

#[test]
fn failed_start_says_why_and_leaves_no_name() {
    HOME.run(&["run", "-d", "--name", "no", "-p", "192.0.2.1:1:1", "bb"])
        .fails(125, &["cannot listen on 192.0.2.1:1", "because"]);
    HOME.run(&["run", "-d", "--name", "../no", "bb"]).fails(125, &["is not a machine name"]);
    HOME.run(&["run", "-d", "--name", "no", "bb", "--", "true"])
        .fails(125, &["its own entrypoint", "supermachine pull"]);
    HOME.run(&["run", "-d", "-it", "bb"]).fails(125, &["--detach", "--interactive"]);
    HOME.run(&["supervise", "bb", "no"]).fails(1, &["name no is not claimed", "run -d"]);
    assert!(!HOME.runtime().join("supermachine/machines/no").exists());
    assert!(rows().iter().all(|row| row["name"] != "no"));
}

#[test]
fn folders_and_socket_are_their_owners_alone() {
    let _machine = Machine::start("own", "bb", &[]);
    let dir = HOME.runtime().join("supermachine");
    let mode = |path: &str| fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(""), mode("machines"), mode("machines/own")], [0o700; 3]);
    assert_eq!(mode("machines/own/socket"), 0o600);
    assert_eq!(files(&dir.join("machines/own")), ["lock", "socket"]);
}

#[test]
fn archives_go_through_standard_input_and_output() {
    let machine = Machine::start("archives", "bb", &[]);
    let folder = HOME.path("to-archive");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a"), "of the host").unwrap();
    let script = format!(
        "set -o pipefail; tar c -C '{}' a | \"$0\" cp - archives:/tmp && \
         \"$0\" exec archives -- cat /tmp/a && \"$0\" cp archives:/tmp/a - | tar xO",
        folder.display()
    );
    assert_eq!(HOME.sh(&script).succeeds(), "of the hostof the host");
    machine.exec(&["true"]).succeeds();
    HOME.run(&["cp", "archives:/nosuch", "-"]).fails(1, &["/nosuch", "no such file or directory"]);
    HOME.sh("\"$0\" cp archives:/bin - | head -c 10 >/dev/null; exit ${PIPESTATUS[0]}")
        .fails(141, &[]);
}

#[test]
fn supervisor_keeps_nothing_open_that_its_starter_had() {
    let kept = HOME.path("kept");
    fs::write(&kept, "").unwrap();
    let script = format!("exec \"$0\" run -d --name keeps bb 9<'{}'", kept.display());
    HOME.sh(&script).succeeds();
    let machine = Machine { name: "keeps".into() };
    let open: Vec<_> = fs::read_dir(format!("/proc/{}/fd", machine.pid()))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect();
    assert!(open.iter().any(|path| path.ends_with("socket") || path.ends_with("lock")), "{open:?}");
    assert!(!open.contains(&kept), "{open:?}");
}

#[test]
fn machine_whose_folder_is_removed_ends() {
    let machine = Machine::start("removed", "bb", &[]);
    let pid = machine.pid();
    fs::remove_dir_all(HOME.runtime().join("supermachine/machines/removed")).unwrap();
    wait_for_end(pid);
    assert!(machine.row().is_none());
}

#[test]
fn supervisor_that_is_killed_leaves_no_machine() {
    let machine = Machine::start("killed", "bb", &[]);
    let mut command = HOME.command(&["exec", "killed", "--", "sh", "-c", "echo begun; sleep 1000"]);
    let mut client = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(first_line(&mut client), "begun\n");
    let pid = machine.pid();
    kill("-KILL", pid);
    // Its users get an error at once.
    let mut said = String::new();
    client.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(125));
    assert!(said.contains("the process that held the machine has exited"), "{said}");
    wait_for_end(pid);
    assert!(machine.row().is_none());
    assert!(!HOME.runtime().join("supermachine/machines/killed").exists());
    drop(Machine::start("killed", "bb", &[]));
}

#[test]
fn machine_that_is_stopped_ends_what_runs_in_it() {
    let machine = Machine::start("used", "svc", &[]);
    let mut command = HOME.command(&["exec", "used", "--", "sh", "-c", "echo begun; sleep 1000"]);
    let mut client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(first_line(&mut client), "begun\n");
    machine.stop().succeeds();
    assert_eq!(client.wait().unwrap().code(), Some(125));
}

#[test]
fn failed_guest_is_listed_until_it_is_stopped() {
    let machine = Machine::start("panic", "bb", &[]);
    let script = "echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero";
    machine.exec(&["sh", "-c", script]).fails(125, &["its console ends with", "panic"]);
    let row = machine.row().unwrap();
    assert_eq!(row["state"], "failed", "{row}");
    assert!(HOME.run(&["ps"]).succeeds().lines().any(|line| line.starts_with("panic ")));
    machine.exec(&["true"]).fails(125, &["panic"]);
    HOME.run(&["logs", "panic"]).fails(1, &["panic"]);
    HOME.run(&["stop", "panic"]).fails(1, &["panic had failed before it was stopped"]);
    assert!(machine.row().is_none());
}

#[test]
fn machine_outlives_its_removed_snapshot() {
    let home = Home::with_assets();
    home.run(&["pull", "--memory", "128", "--name", "gone", &image("busybox")]).succeeds();
    assert_eq!(home.run(&["run", "-d", "gone"]).succeeds(), "gone\n");
    home.run(&["rm", "gone"]).fails(1, &["gone is in use", "--force"]);
    home.run(&["rm", "-f", "gone"]).succeeds();
    home.run(&["gc", "--all"]).succeeds();
    let done = home.run(&["exec", "gone", "--", "sh", "-c", "find /bin /usr | wc -l"]);
    assert!(done.succeeds().trim().parse::<u32>().unwrap() > 10, "{done:?}");
    home.run(&["run", "-d", "gone"]).fails(125, &["no snapshot of "]);
    home.run(&["stop", "gone"]).succeeds();
}

#[test]
fn stop_gives_the_entrypoint_time_to_exit() {
    let machine = Machine::start("asked", "svc", &[]);
    assert_eq!(machine.row().unwrap()["stop_signal"], 15);
    let mut command = HOME.command(&["logs", "-f", "asked"]);
    let mut follower = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!([lines.next().unwrap(), lines.next().unwrap()], ["begun", "ready"]);
    HOME.run(&["stop", "--time", "100", "asked"]).succeeds();
    assert_eq!(lines.collect::<Vec<_>>(), ["asked"]);
    assert_eq!(follower.wait().unwrap().code(), Some(0));
}

#[test]
fn stop_sends_the_stop_signal_of_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let layout =
        layout::with_config(&format!("{}:latest", image("busybox")), dir.path(), |config| {
            config["StopSignal"] = "SIGUSR1".into();
        });
    let script = "trap 'echo asked; exit' USR1; echo ready; while :; do sleep 0.1; done";
    let pull = ["pull", "--memory", "128", "--name", "usr1", "--entrypoint", "/bin/sh"];
    let rest = ["--ready", "log:ready", &layout, "--", "-c", script];
    HOME.run(&[&pull[..], &rest[..]].concat()).succeeds();

    let machine = Machine::start("usr1", "usr1", &[]);
    assert_eq!(machine.row().unwrap()["stop_signal"], 10);
    let follower = HOME.command(&["logs", "-f", "usr1"]).stdout(Stdio::piped()).spawn();
    let mut follower = follower.unwrap();
    assert_eq!(first_line(&mut follower), "ready\n");
    HOME.run(&["stop", "--time", "100", "usr1"]).succeeds();
    let mut rest = String::new();
    follower.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "asked\n");
}

#[test]
fn logs_keep_both_streams_apart_and_ps_shows_the_exit_status() {
    let machine = Machine::start("logged", "svc", &[]);
    let done = HOME.run(&["logs", "logged"]);
    assert_eq!((done.succeeds(), &*done.stderr), ("begun\nready\n", "aside\n"));
    let row = machine.row().unwrap();
    assert_eq!((&row["state"], &row["snapshot"]), (&"running".into(), &"svc".into()));
    assert!(row["image"].as_str().unwrap().ends_with("/busybox:latest"), "{row}");
    let end = "ps | grep '[t]rap' | { read pid rest; kill $pid; }";
    machine.exec(&["sh", "-c", end]).succeeds();
    assert_eq!(HOME.run(&["logs", "-f", "logged"]).succeeds(), "begun\nready\nasked\n");
    // The log stream may report the exit before the supervisor sees it.
    let row = loop {
        let row = machine.row().unwrap();
        if row["state"] != "running" {
            break row;
        }
    };
    assert_eq!((&row["state"], &row["reason"]), (&"exited".into(), &"exit code 7".into()), "{row}");
    let table = HOME.run(&["ps"]);
    let line = table.succeeds().lines().find(|line| line.starts_with("logged ")).unwrap();
    assert!(line.contains(" svc ") && line.ends_with(" exited: exit code 7"), "{line}");
    // The machine itself still runs.
    assert_eq!(machine.exec(&["echo", "x"]).succeeds(), "x\n");
}

#[test]
fn ports_lead_into_a_machine_in_the_background() {
    let done =
        HOME.run(&["run", "-d", "--name", "ports", "-p", "0:80", "-p", "127.0.0.2:0:81", "bb"]);
    assert_eq!(done.succeeds(), "ports\n");
    let machine = Machine { name: "ports".into() };
    let row = machine.row().unwrap();
    let ports = row["ports"].as_array().unwrap();
    let shown: Vec<_> =
        ports.iter().map(|port| port["host"].as_str().unwrap().to_owned()).collect();
    assert!(shown[0].starts_with("127.0.0.1:") && shown[1].starts_with("127.0.0.2:"), "{row}");
    assert!(done.stderr.contains(&format!("{} leads to port 80\n", shown[0])), "{done:?}");
    for (address, port) in shown.iter().zip(["80", "81"]) {
        let serve = ["exec", "-i", "ports", "--", "nc", "-l", "-p", port];
        let mut server = HOME.command(&serve);
        let server = server.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        machine
            .exec(&[
                "sh",
                "-c",
                &format!("until netstat -tln | grep -q :{port}; do sleep 0.1; done"),
            ])
            .succeeds();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"over\n").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let output = server.wait_with_output().unwrap();
        assert_eq!(output.stdout, b"over\n", "{output:?}");
    }
    machine.stop().succeeds();
    for address in shown {
        assert!(TcpStream::connect(&address).is_err());
    }
}

#[test]
fn files_and_folders_go_in_and_come_out() {
    let machine = Machine::start("copy", "bb", &[]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let cp = |source: &str, target: &str| HOME.run(&["cp", source, target]);
    fs::create_dir_all(dir.path().join("tree/sub")).unwrap();
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    fs::write(dir.path().join("tree/sub/big"), &content).unwrap();
    fs::set_permissions(dir.path().join("tree/sub/big"), fs::Permissions::from_mode(0o750))
        .unwrap();
    std::os::unix::fs::symlink("sub/big", dir.path().join("tree/link")).unwrap();

    // Into a directory that is there, under a name that is not, and into one that is made.
    cp(&path("tree"), "copy:/tmp").succeeds();
    cp(&path("tree"), "copy:/tmp/named").succeeds();
    cp(&path("tree/sub/big"), "copy:/tmp/made/").succeeds();
    let script = "cd /tmp; stat -c '%a %U %s' tree/sub/big made/big; readlink named/link; \
                  cmp tree/sub/big named/sub/big && cmp made/big named/link && echo same";
    let shown = machine.exec(&["sh", "-c", script]);
    assert_eq!(shown.succeeds(), "750 root 3000000\n750 root 3000000\nsub/big\nsame\n");

    // Out: a new name, a folder that is there, and over what is there.
    cp("copy:/tmp/tree", &path("out")).succeeds();
    assert!(fs::read(dir.path().join("out/sub/big")).unwrap() == content);
    assert_eq!(fs::read_link(dir.path().join("out/link")).unwrap().to_str(), Some("sub/big"));
    machine.exec(&["sh", "-c", "cd /tmp/tree; echo new > sub/big; echo more > more"]).succeeds();
    fs::rename(dir.path().join("out"), dir.path().join("tree-out")).unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    fs::rename(dir.path().join("tree-out"), dir.path().join("out/tree")).unwrap();
    fs::write(dir.path().join("out/tree/own"), "stays").unwrap();
    cp("copy:/tmp/tree", &path("out")).succeeds();
    assert_eq!(fs::read(dir.path().join("out/tree/sub/big")).unwrap(), b"new\n");
    assert_eq!(files(&dir.path().join("out/tree")), ["link", "more", "own", "sub"]);
    cp("copy:/tmp/tree/more", &path("file")).succeeds();
    cp("copy:tmp/tree/sub/big", &path("file")).succeeds();
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"new\n");

    // Owners: root, another user by name, or that of the source.
    let small = path("out/tree/more");
    for (options, target) in [
        (&["--chown", "app"][..], "/tmp/app"),
        (&["--chown", "7:app"], "/tmp/seven"),
        (&["-a"], "/tmp/own"),
    ] {
        let to = format!("copy:{target}");
        let arguments = [&["cp"][..], options, &[small.as_str(), to.as_str()]].concat();
        HOME.run(&arguments).succeeds();
    }
    let own = fs::metadata(&small).unwrap();
    let shown = machine.exec(&["stat", "-c", "%u:%g", "/tmp/app", "/tmp/seven", "/tmp/own"]);
    let (uid, gid) = (own.uid(), own.gid());
    assert_eq!(shown.succeeds(), format!("1000:1000\n7:1000\n{uid}:{gid}\n"));
    HOME.run(&["cp", "--chown", "nosuch", &small, "copy:/tmp/x"]).fails(1, &["no user \"nosuch\""]);
    HOME.run(&["cp", "--chown", "app", "copy:/tmp/app", &path("x")]).fails(1, &["--chown"]);

    cp("copy:/nosuch", &path("x")).fails(1, &["/nosuch"]);
    cp(&path("nosuch"), "copy:/tmp").fails(1, &["nosuch"]);
    cp(&path("tree"), "copy:/etc/passwd").fails(1, &["/etc/passwd is not a folder"]);
    cp(&path("tree"), &path("y")).fails(1, &["MACHINE:PATH"]);
    cp("nosuch:/etc", &path("x")).fails(1, &["no machine \"nosuch\" runs"]);
    assert_eq!(files(dir.path()), ["file", "out", "tree"]);
}

#[test]
fn paused_machine_refuses_commands_and_continues() {
    let machine = Machine::start("paused", "bb", &[]);
    HOME.run(&["pause", "paused"]).succeeds();
    assert_eq!(machine.row().unwrap()["state"], "paused");
    machine.exec(&["true"]).fails(125, &["machine paused is paused", "unpause paused"]);
    HOME.run(&["logs", "paused"]).fails(1, &["unpause paused"]);
    HOME.run(&["unpause", "paused"]).succeeds();
    assert_eq!(machine.exec(&["echo", "x"]).succeeds(), "x\n");
    HOME.run(&["pause", "paused"]).succeeds();
    HOME.run(&["stop", "paused"]).succeeds();
    assert!(machine.row().is_none());
}

#[test]
fn logs_and_status_of_a_stopped_machine_stay_until_rm() {
    let machine = Machine::start("kept", "svc", &[]);
    HOME.run(&["stop", "--time", "100", "kept"]).succeeds();
    assert!(machine.row().is_none());
    let done = HOME.run(&["logs", "kept"]);
    assert_eq!((done.succeeds(), &*done.stderr), ("begun\nready\nasked\n", "aside\n"));
    assert_eq!(HOME.run(&["wait", "kept"]).succeeds(), "7\n");
    let all = HOME.run(&["ps", "--all"]);
    let line = all.succeeds().lines().find(|line| line.starts_with("kept ")).unwrap();
    assert!(line.ends_with(" stopped: exit code 7"), "{line}");
    HOME.run(&["rm", "kept"]).succeeds();
    HOME.run(&["logs", "kept"]).fails(1, &["no machine \"kept\" runs"]);
    HOME.run(&["run", "-d", "--rm", "--name", "kept", "svc"]).succeeds();
    HOME.run(&["stop", "--time", "0", "kept"]).succeeds();
    HOME.run(&["logs", "kept"]).fails(1, &["no machine \"kept\" runs"]);
}

#[test]
fn kill_sends_a_signal_and_wait_returns_the_exit_status() {
    let machine = Machine::start("killed", "svc", &["--label", "a=b"]);
    assert_eq!(machine.row().unwrap()["labels"]["a"], "b");
    let waiting = HOME.command(&["wait", "killed"]).stdout(Stdio::piped()).spawn().unwrap();
    HOME.run(&["kill", "-s", "TERM", "killed"]).succeeds();
    assert_eq!(waiting.wait_with_output().unwrap().stdout, b"7\n");
    HOME.run(&["kill", "killed"]).succeeds();
    assert!(machine.row().is_none());
}

#[test]
fn restart_keeps_name_and_ports_and_drops_files() {
    let machine = Machine::start("again", "bb", &["-p", "80", "--hostname", "other"]);
    machine.exec(&["touch", "/tmp/x"]).succeeds();
    let port = HOME.run(&["port", "again"]);
    let address = port.succeeds().strip_prefix("80/tcp -> ").unwrap().to_owned();
    assert_eq!(HOME.run(&["port", "again", "80"]).succeeds(), address);
    HOME.run(&["port", "again", "81"]).fails(1, &["port 81", "is not published"]);
    let before = machine.pid();
    HOME.run(&["restart", "again"]).succeeds();
    assert_ne!(machine.pid(), before);
    assert_eq!(HOME.run(&["port", "again", "80"]).succeeds(), address);
    let done = machine.exec(&["sh", "-c", "hostname; ls /tmp"]);
    assert_eq!(done.succeeds(), "other\n");
}

#[test]
fn top_and_stats_show_processes_and_memory() {
    let machine = Machine::start("busy", "svc", &[]);
    let top = HOME.run(&["top", "busy"]);
    assert!(top.succeeds().contains("trap "), "{top:?}");
    let stats = HOME.run(&["stats", "busy", "--format", "json"]);
    let rows: Value = serde_json::from_str(stats.succeeds()).unwrap();
    assert_eq!(rows[0]["name"], "busy");
    assert!(rows[0]["memory_used"].as_u64() < rows[0]["memory_total"].as_u64(), "{rows}");
    drop(machine);
}

#[test]
fn machine_that_does_not_answer_is_named_by_ps() {
    let machine = Machine::start("stuck", "svc", &[]);
    let pid = machine.pid();
    kill("-STOP", pid);
    let done = HOME.run(&["ps"]);
    kill("-CONT", pid);
    assert_eq!(done.status, 1);
    assert!(done.stderr.contains("the machine stuck does not answer"), "{done:?}");
    assert_eq!(machine.row().unwrap()["state"], "running");
}

#[test]
fn snapshot_in_use_is_removed_only_by_force() {
    HOME.run(&["pull", "--memory", "128", "--name", "used", &image("busybox")]).succeeds();
    let machine = Machine::start("user", "used", &[]);
    HOME.run(&["rm", "used"]).fails(1, &["in use by user", "--force"]);
    HOME.run(&["rm", "user"]).fails(1, &["the machine user runs", "--force"]);
    HOME.run(&["rm", "-f", "used"]).succeeds();
    assert_eq!(machine.exec(&["echo", "x"]).succeeds(), "x\n");
    HOME.run(&["rm", "-f", "user"]).succeeds();
    assert!(machine.row().is_none());
}

#[test]
fn environment_of_a_background_machine_is_baked_and_found_again() {
    let image = format!("{}:latest", image("busybox"));
    let command = ["sh", "-c", "echo ready $A; sleep 1000"];
    let run = |name: &str| {
        let options = ["run", "-d", "--name", name, "-m", "128", "-e", "A=b", &image];
        HOME.run(&[&options[..], &command[..]].concat())
    };
    let first = run("env-1");
    assert_eq!(first.succeeds(), "env-1\n");
    assert!(first.stderr.contains("pulling it"), "{first:?}");
    let again = run("env-2");
    assert_eq!((again.succeeds(), &*again.stderr), ("env-2\n", ""));
    for name in ["env-1", "env-2"] {
        let machine = Machine { name: name.into() };
        assert_eq!(HOME.run(&["logs", name]).succeeds(), "ready b\n");
        assert_eq!(machine.exec(&["sh", "-c", "echo $A"]).succeeds(), "b\n");
    }
}

#[test]
fn failed_copy_leaves_no_part() {
    let machine = Machine::start("part", "bb", &[]);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("tree")).unwrap();
    fs::write(dir.path().join("tree/a"), "a").unwrap();
    let big = "x".repeat(4 << 20);
    fs::write(dir.path().join("tree/big"), big).unwrap();
    let tree = dir.path().join("tree").display().to_string();
    machine.exec(&["sh", "-c", "mkdir -p /mnt; mount -t tmpfs -o size=1m none /mnt"]).succeeds();
    HOME.run(&["cp", &tree, "part:/mnt/tree"]).fails(1, &["no space left on device"]);
    assert_eq!(machine.exec(&["ls", "/mnt"]).succeeds(), "");
}

#[test]
fn exec_in_the_background_is_a_job_with_a_log_and_a_status() {
    let machine = Machine::start("jobs", "bb", &[]);
    let script = "echo out; echo err >&2; until [ -e /tmp/go ]; do sleep 0.1; done; exit 3";
    let done = HOME.run(&["exec", "-d", "-e", "A=b", "jobs", "--", "sh", "-c", script]);
    assert_eq!((done.succeeds(), &*done.stderr), ("jobs/1\n", ""));
    let other = HOME.run(&["exec", "-d", "jobs", "--", "sh", "-c", "sleep 1000"]);
    assert_eq!(other.succeeds(), "jobs/2\n");
    machine.exec(&["touch", "/tmp/go"]).succeeds();
    assert_eq!(HOME.run(&["wait", "jobs/1"]).succeeds(), "3\n");
    let logs = HOME.run(&["logs", "jobs/1"]);
    assert_eq!((logs.succeeds(), &*logs.stderr), ("out\n", "err\n"));
    HOME.run(&["wait", "jobs/9"]).fails(1, &["no job \"jobs/9\""]);
    HOME.run(&["exec", "-d", "jobs", "--", "nosuch"]).fails(127, &["nosuch: no such program"]);
}
