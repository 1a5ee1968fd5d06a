//! Machines that run by themselves: `run -d`, `ps`, `exec`, `logs`, `stop`, `cp`, on real images
//! from the test registry.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;
#[path = "vm_detached/terminal.rs"]
mod terminal;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use serde_json::Value;
use supermachine_formats::Digest;
use support::{Done, Home, files};

/// What the entrypoint of `svc` does: it writes to both streams, and ends in its own way when the
/// image's stop signal comes. What it writes then is seen only by who follows its logs.
const SERVICE: &str = "trap 'echo asked; exit 7' TERM; echo begun; echo aside >&2; \
                       echo ready; while :; do sleep 0.1; done";

/// Ends with the process; its folder is removed by nobody, as statics are not dropped, but lies
/// where the host's temporary files lie.
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
        .expect("SUPERMACHINE_TEST_REGISTRY tells where the test registry is");
    format!("{registry}/{name}")
}

/// A machine that is stopped when the test is over, however that comes.
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
        // One that was stopped by the test is not there any more.
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
    // Reading from it ends only with the last of its descriptors.
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
fn machine_outlives_its_starter_keeps_its_files_and_ends_when_it_is_stopped() {
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
fn start_that_fails_tells_why_and_leaves_no_name() {
    HOME.run(&["run", "-d", "--name", "no", "-p", "192.0.2.1:1:1", "bb"])
        .fails(125, &["cannot listen on 192.0.2.1:1", "because"]);
    HOME.run(&["run", "-d", "--name", "../no", "bb"]).fails(125, &["cannot be a machine's name"]);
    HOME.run(&["run", "-d", "--name", "no", "bb", "--", "true"]).fails(125, &["supermachine exec"]);
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
    // Who uses it is told at once.
    let mut said = String::new();
    client.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(125));
    assert!(said.contains("the process that held the machine has ended"), "{said}");
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
fn guest_that_fails_is_told_of_until_it_is_stopped() {
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
fn snapshot_may_be_removed_while_its_machine_runs() {
    let home = Home::with_assets();
    home.run(&["pull", "--memory", "128", "--name", "gone", &image("busybox")]).succeeds();
    assert_eq!(home.run(&["run", "-d", "gone"]).succeeds(), "gone\n");
    home.run(&["rm", "gone"]).succeeds();
    home.run(&["gc", "--all"]).succeeds();
    let done = home.run(&["exec", "gone", "--", "sh", "-c", "find /bin /usr | wc -l"]);
    assert!(done.succeeds().trim().parse::<u32>().unwrap() > 10, "{done:?}");
    home.run(&["run", "-d", "gone"]).fails(125, &["no snapshot of "]);
    home.run(&["stop", "gone"]).succeeds();
}

#[test]
fn entrypoint_is_asked_to_end_and_has_its_time() {
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

/// Changes a blob of an OCI layout, and what tells of it.
fn rewrite(layout: &Path, descriptor: &mut Value, change: impl FnOnce(&mut Value)) {
    let path = |digest: &str| layout.join(format!("blobs/{}", digest.replace(':', "/")));
    let bytes = fs::read(path(descriptor["digest"].as_str().unwrap())).unwrap();
    let mut value = serde_json::from_slice(&bytes).unwrap();
    change(&mut value);
    let bytes = serde_json::to_vec(&value).unwrap();
    let digest = Digest::of(&bytes).to_string();
    fs::write(path(&digest), &bytes).unwrap();
    (descriptor["digest"], descriptor["size"]) = (digest.into(), bytes.len().into());
}

#[test]
fn entrypoint_is_asked_by_the_signal_of_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:latest", dir.path().display());
    let from = format!("docker://{}:latest", image("busybox"));
    supermachine_test_support::registry::skopeo(&["--src-tls-verify=false", &from, &layout]);
    let mut index: Value =
        serde_json::from_slice(&fs::read(dir.path().join("index.json")).unwrap()).unwrap();
    rewrite(dir.path(), &mut index["manifests"][0], |manifest| {
        rewrite(dir.path(), &mut manifest["config"], |config| {
            config["config"]["StopSignal"] = "SIGUSR1".into();
        });
    });
    fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
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
fn logs_tell_both_streams_and_ps_how_the_entrypoint_ended() {
    let machine = Machine::start("told", "svc", &[]);
    let done = HOME.run(&["logs", "told"]);
    assert_eq!((done.succeeds(), &*done.stderr), ("begun\nready\n", "aside\n"));
    let row = machine.row().unwrap();
    assert_eq!((&row["state"], &row["snapshot"]), (&"running".into(), &"svc".into()));
    assert!(row["image"].as_str().unwrap().ends_with("/busybox:latest"), "{row}");
    let end = "ps | grep '[t]rap' | { read pid rest; kill $pid; }";
    machine.exec(&["sh", "-c", end]).succeeds();
    assert_eq!(HOME.run(&["logs", "-f", "told"]).succeeds(), "begun\nready\nasked\n");
    // Who follows may be told before who waits.
    let row = loop {
        let row = machine.row().unwrap();
        if row["state"] != "running" {
            break row;
        }
    };
    assert_eq!((&row["state"], &row["reason"]), (&"ended".into(), &"exit code 7".into()), "{row}");
    let table = HOME.run(&["ps"]);
    let line = table.succeeds().lines().find(|line| line.starts_with("told ")).unwrap();
    assert!(line.contains(" svc ") && line.ends_with(" ended: exit code 7"), "{line}");
    // The machine itself goes on.
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
    let told: Vec<_> = ports.iter().map(|port| port["host"].as_str().unwrap().to_owned()).collect();
    assert!(told[0].starts_with("127.0.0.1:") && told[1].starts_with("127.0.0.2:"), "{row}");
    assert!(done.stderr.contains(&format!("{} leads to port 80\n", told[0])), "{done:?}");
    for (address, port) in told.iter().zip(["80", "81"]) {
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
    for address in told {
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
    let told = machine.exec(&["sh", "-c", script]);
    assert_eq!(told.succeeds(), "750 root 3000000\n750 root 3000000\nsub/big\nsame\n");

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

    cp("copy:/nosuch", &path("x")).fails(1, &["/nosuch"]);
    cp(&path("nosuch"), "copy:/tmp").fails(1, &["nosuch"]);
    cp(&path("tree"), "copy:/etc/passwd").fails(1, &["/etc/passwd is not a folder"]);
    cp(&path("tree"), &path("y")).fails(1, &["MACHINE:PATH"]);
    cp("nosuch:/etc", &path("x")).fails(1, &["no machine \"nosuch\" runs"]);
    assert_eq!(files(dir.path()), ["file", "out", "tree"]);
}
