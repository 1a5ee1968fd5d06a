//! The commands where there is a hypervisor, on a real image from the test registry.
//!
//! Needs the package `docker-registry`. A bake takes long where the hypervisor is emulated, so that all tests share one store.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "support/layout.rs"]
mod layout;
mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::LazyLock;

use serde_json::Value;
use supermachine_test_support::registry::DockerRegistry;
use support::{Home, age, files, interrupt};

/// Lives as long as the process. Statics are not dropped, so its folder stays among the host's temporary
/// files.
static HOME: LazyLock<Home> = LazyLock::new(|| {
    let home = Home::with_assets();
    let done = home.run(&["pull", "--memory", "128", "--name", "bb", &image("busybox")]);
    assert_eq!(done.succeeds(), "bb\n");
    assert!(done.stderr.contains("\nbb is "), "{done:?}");
    home
});

fn image(name: &str) -> String {
    let registry = std::env::var("SUPERMACHINE_TEST_REGISTRY")
        .expect("SUPERMACHINE_TEST_REGISTRY is the test registry");
    format!("{registry}/{name}")
}

fn run(arguments: &[&str]) -> support::Done {
    HOME.run(&[&["run"], arguments].concat())
}

#[test]
fn run_passes_output_and_status_through() {
    let done = run(&["bb", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((done.status, &*done.stdout, &*done.stderr), (3, "out\n", "err\n"));
    let done = run(&["bb", "echo", "-n", "without", "--", "dashes"]);
    assert_eq!((done.status, &*done.stdout), (0, "without -- dashes"));
    // As in Docker, all that stands behind the image belongs to the command.
    let done = run(&["--entrypoint", "echo", "bb", "-n", "--flag", "-d", "-u", "x"]);
    assert_eq!((done.status, &*done.stdout), (0, "--flag -d -u x"), "{done:?}");
    run(&["bb", "-d"]).fails(127, &["-d: no such program"]);
}

#[test]
fn run_status_names_the_failure() {
    run(&["bb", "--", "nosuch"]).fails(127, &["nosuch: no such program"]);
    run(&["bb", "--", "/etc"]).fails(126, &["/etc: cannot be executed", "Permission denied"]);
    run(&["-w", "/etc/passwd", "bb", "--", "true"]).fails(125, &["/etc/passwd", "Not a directory"]);
    run(&["-u", "nosuch", "bb", "--", "true"]).fails(125, &["nosuch", "/etc/passwd"]);
    assert_eq!(run(&["bb", "--", "sh", "-c", "kill -TERM $$"]).status, 128 + 15);
    assert_eq!(run(&["bb", "--", "sh", "-c", "exit 125"]).status, 125);
}

#[test]
fn run_kills_a_command_after_its_timeout_and_keeps_its_output() {
    let done = run(&["--timeout", "1.5", "bb", "--", "sh", "-c", "echo begun; sleep 1000"]);
    assert_eq!((done.status, &*done.stdout), (124, "begun\n"));
    assert!(done.stderr.contains("killed after 1.5 s"), "{done:?}");
}

#[test]
fn run_takes_environment_directory_and_user() {
    let script = "echo $A,$HERE,$B; pwd; id -u; id -g";
    let mut command = HOME.command(&[
        "run",
        "-e",
        "A=b=c",
        "-e",
        "HERE",
        "--env",
        "B=",
        "-w",
        "/tmp",
        "-u",
        "1000:1001",
        "bb",
        "--",
        "sh",
        "-c",
        script,
    ]);
    let output = command.env("HERE", "from here").output().unwrap();
    assert_eq!(output.stdout, b"b=c,from here,\n/tmp\n1000\n1001\n", "{output:?}");
}

#[test]
fn run_has_the_network_that_was_asked_for() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let interfaces = |arguments: &[&str]| {
        run(&[arguments, &["bb", "--", "ls", "/sys/class/net"]].concat()).succeeds().to_owned()
    };
    assert!(interfaces(&[]).contains("eth0"));
    assert!(!interfaces(&["--net", "none"]).contains("eth0"));
    // By address: `vm_net` resolves the name.
    let fetch = ["nc", "198.18.0.3", &port.to_string()].map(str::to_owned);
    let fetch: Vec<&str> = fetch.iter().map(String::as_str).collect();
    // The default has no way to this host.
    let done = run(&[&["--net-log", "bb", "--"], &fetch[..]].concat());
    assert_eq!((done.status, &*done.stdout), (1, ""), "{done:?}");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"hello").unwrap();
    });
    let network = format!("tcp:host:{port}");
    let done = run(&[&["--net", &network, "--net-log", "bb", "--"], &fetch[..]].concat());
    assert_eq!((done.status, &*done.stdout), (0, "hello"), "{done:?}");
    assert!(done.stderr.contains(&format!("allowed tcp to 198.18.0.3:{port}")), "{done:?}");
    server.join().unwrap();
}

#[test]
fn run_shares_folders_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    std::fs::write(dir.path().join("in"), "hello").unwrap();
    let (shared, guarded) = (format!("{path}:/project"), format!("{path}:/guarded:ro"));
    let mount = format!("type=bind,source={path},target=/mounted,readonly");
    let folders = ["-v", &shared, "-v", &guarded, "--mount", &mount, "-w", "/project"];
    let script = "cat in; echo new > out; touch /guarded/out /mounted/out; ls /mounted";
    let done = run(&[&folders, &["bb", "--", "sh", "-c", script][..]].concat());
    assert_eq!((done.status, &*done.stdout), (0, "helloin\nout\n"), "{done:?}");
    assert_eq!(done.stderr.matches("Read-only file system").count(), 2, "{done:?}");
    assert_eq!(std::fs::read_to_string(dir.path().join("out")).unwrap(), "new\n");
}

#[test]
fn run_keeps_data_in_a_volume() {
    let script = |options: &[&str], script: &str| {
        run(&[options, &["bb", "--", "sh", "-c", script]].concat())
    };
    assert_eq!(script(&["-v", "kept:/data"], "ls -A /data; echo kept > /data/file").succeeds(), "");
    let read_only = ["--mount", "type=volume,source=kept,target=/d,readonly"];
    let done = script(&read_only, "cat /d/file; echo no > /d/file");
    assert_eq!((done.status, &*done.stdout), (1, "kept\n"), "{done:?}");
    assert!(done.stderr.contains("Read-only file system"), "{done:?}");
    // A machine in the background has it for itself.
    HOME.run(&["run", "-d", "--name", "keeper", "-v", "kept:/data", "bb"]).succeeds();
    script(&["-v", "kept:/data"], "true").fails(125, &["volume kept is in use"]);
    HOME.run(&["volume", "rm", "kept"]).fails(1, &["volume kept is in use"]);
    HOME.run(&["exec", "keeper", "sh", "-c", "echo more >> /data/file"]).succeeds();
    HOME.run(&["stop", "-t", "0", "keeper"]).succeeds();
    assert_eq!(script(&["-v", "kept:/data:ro"], "cat /data/file").succeeds(), "kept\nmore\n");
    HOME.run(&["volume", "rm", "kept"]).succeeds();
}

#[test]
fn run_writes_to_a_disk() {
    let root =
        "echo $(($(df -m / | tail -n 1 | awk '{print $2}') / 1000)); cat /own; echo kept > /own";
    let run_with = |options: &[&str]| run(&[options, &["bb", "--", "sh", "-c", root]].concat());
    for _ in 0..2 {
        let done = run_with(&["--disk", "3g"]);
        assert_eq!((done.status, &*done.stdout), (0, "3\n"), "{done:?}");
    }
    assert_eq!(run_with(&["-v", "root:/"]).stdout, "8\n");
    assert_eq!(run_with(&["-v", "root:/"]).stdout, "8\nkept\n");
    HOME.run(&["volume", "rm", "root"]).succeeds();
    for size in ["1", "no", "17t"] {
        assert_eq!(run_with(&["--disk", size]).stdout, "", "{size}");
    }
    run_with(&["--disk", "1m"]).fails(125, &["a volume cannot have 1048576 bytes"]);
}

#[test]
fn run_creates_a_missing_working_directory() {
    let done = run(&["-w", "/new/folder", "bb", "--", "sh", "-c", "pwd; ls -ld . | cut -c1-10"]);
    assert_eq!(done.succeeds(), "/new/folder\ndrwxr-xr-x\n");
}

#[test]
fn run_reads_variables_from_files_and_passes_any_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env");
    std::fs::write(&file, "# comment\nA=from file\nB=from file\n").unwrap();
    let script = "printf '%s|%s|' \"$A\" \"$B\"; printf %s \"$C$1\" | od -An -tx1";
    let output = HOME
        .command(&["run", "-e", "B=own", "--env-file"])
        .arg(&file)
        .args(["-e".as_ref(), OsStr::from_bytes(b"C=\xff"), "bb".as_ref(), "--".as_ref()])
        .args(["sh", "-c", script, "sh"])
        .arg(OsStr::from_bytes(b"\xfe"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(text, "from file|own| ff fe\n", "{output:?}");
}

#[test]
fn run_passes_signals_on_and_returns_the_status_of_a_trap() {
    for (signal, name) in [("-TERM", "TERM"), ("-USR1", "USR1"), ("-HUP", "HUP"), ("-INT", "INT")] {
        let script =
            format!("trap 'echo got; exit 7' {name}; echo begun; while :; do sleep 0.1; done");
        let mut command = HOME.command(&["run", "bb", "--", "sh", "-c", &script]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "begun");
        let kill = format!("kill {signal} {}", child.id());
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        assert_eq!(lines.collect::<Vec<_>>(), ["got"], "{name}");
        assert_eq!(child.wait().unwrap().code(), Some(7), "{name}");
    }
}

#[test]
fn run_gives_up_at_the_second_interrupt() {
    let script = "trap '' INT; echo begun; while :; do sleep 0.1; done";
    let mut command = HOME.command(&["run", "bb", "--", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let kill = format!("kill -INT {0}; sleep 1; kill -INT {0}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(child.wait().unwrap().signal(), Some(2));
}

#[test]
fn run_combines_entrypoint_and_command_as_docker_does() {
    let dir = tempfile::tempdir().unwrap();
    let source = layout::with_config(&image("busybox:latest"), dir.path(), |config| {
        config["Entrypoint"] = serde_json::json!(["/bin/echo", "entry"]);
        config["Cmd"] = serde_json::json!(["cmd"]);
    });
    HOME.run(&["pull", "--memory", "128", "--name", "entry", &source]).succeeds();
    assert_eq!(run(&["entry"]).succeeds(), "entry cmd\n");
    assert_eq!(run(&["entry", "a", "-b"]).succeeds(), "entry a -b\n");
    assert_eq!(run(&["entry", "--", "a"]).succeeds(), "entry a\n");
    assert_eq!(run(&["--entrypoint", "/bin/echo", "entry", "own"]).succeeds(), "own\n");
    assert_eq!(run(&["--entrypoint", "", "entry", "echo", "none"]).succeeds(), "none\n");
    run(&["--entrypoint", "", "entry"]).fails(125, &["no command to run"]);
}

#[test]
fn run_needs_no_command_or_working_entrypoint_in_the_image() {
    let home = Home::with_assets();
    for (entrypoint, name) in [(Value::Null, "none"), (serde_json::json!(["/bin/false"]), "fails")]
    {
        let dir = home.path(name);
        std::fs::create_dir(&dir).unwrap();
        let source = layout::with_config(&image("busybox:latest"), &dir, |config| {
            config["Entrypoint"] = entrypoint.clone();
            config["Cmd"] = Value::Null;
        });
        let run = ["run", "-m", "128", "--entrypoint", "", &source, "echo", "x"];
        assert_eq!(home.run(&run).succeeds(), "x\n");
    }
    let source = format!("oci:{}:latest", home.path("none").display());
    home.run(&["run", "-m", "128", &source]).fails(125, &["no command to run"]);
    home.run(&["pull", "-m", "128", &source]).fails(1, &["command"]);
}

#[test]
fn run_attaches_to_the_running_entrypoint() {
    let script = "trap 'echo asked; exit 7' TERM; echo begun; while :; do sleep 0.1; done";
    let pull = ["pull", "--memory", "128", "--name", "attached", "--entrypoint", "/bin/sh"];
    let rest = ["--ready", "log:begun", &image("busybox"), "--", "-c", script];
    HOME.run(&[&pull[..], &rest[..]].concat()).succeeds();
    let mut child = HOME.command(&["run", "attached"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "begun");
    let kill = format!("kill -TERM {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    assert_eq!(lines.collect::<Vec<_>>(), ["asked"]);
    assert_eq!(child.wait().unwrap().code(), Some(7));
    let late = run(&["--timeout", "1", "attached"]);
    assert_eq!((late.status, &*late.stdout), (124, "begun\n"));
}

#[test]
fn run_of_a_snapshot_with_another_size_is_refused_or_bakes_the_image_again() {
    run(&["-m", "160", "bb", "true"]).fails(125, &["bb has 128 MiB", "another --name"]);
    assert_eq!(run(&["-m", "128", "bb", "echo", "x"]).succeeds(), "x\n");
    let sized = run(&["-m", "160", &image("busybox"), "sh", "-c", "echo x"]);
    assert_eq!(sized.succeeds(), "x\n");
    assert!(HOME.names().contains(&"busybox--160m".to_owned()), "{:?}", HOME.names());
    let again = run(&["-m", "160m", "--pull", "never", &image("busybox"), "echo", "again"]);
    assert_eq!((again.succeeds(), &*again.stderr), ("again\n", ""));
    // A variant is no snapshot of the image for others.
    let plain = run(&[&image("busybox"), "sh", "-c", "grep MemTotal /proc/meminfo"]);
    let kib: u64 = plain.succeeds().split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 128 << 10, "{plain:?}");
}

#[test]
fn run_without_i_leaves_standard_input_alone() {
    let done = HOME.sh(r#"printf 'a\nb\n' | { "$0" run bb -- cat; cat; }"#);
    assert_eq!(done.succeeds(), "a\nb\n");
}

#[test]
fn run_passes_much_output_unharmed() {
    let script = "seq 1 200000; seq 1 200000 >&2";
    let done = run(&["bb", "--", "sh", "-c", script]);
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(done.succeeds() == expected, "{} bytes", done.stdout.len());
    assert!(done.stderr == expected, "{} bytes", done.stderr.len());
}

#[test]
fn run_into_a_closed_pipe_exits_silently() {
    let done = HOME.sh(r#""$0" run bb -- yes | head -n 1; echo ${PIPESTATUS[0]}"#);
    assert_eq!((done.succeeds(), &*done.stderr), ("y\n141\n", ""));
}

#[test]
fn run_shows_output_at_once_and_dies_of_an_interrupt() {
    let mut command = HOME.command(&["run", "bb", "--", "sh", "-c", "echo begun; sleep 1000"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n");
    assert_eq!(interrupt(&mut child), Some(2));
}

#[test]
fn run_prints_its_timings() {
    let done = run(&["--timings", "bb", "--", "echo", "x"]);
    assert_eq!(done.succeeds(), "x\n");
    for step in ["find ", "open ", "start ", "  resume ", "command ", "all "] {
        let line = done.stderr.lines().find(|line| line.starts_with(step));
        assert!(line.is_some_and(|line| line.ends_with(" ms")), "{step}: {done:?}");
    }
}

#[test]
fn run_finds_a_snapshot_by_its_image_or_pulls_it() {
    let home = Home::with_assets();
    let done = HOME.run(&["run", &image("busybox"), "--", "echo", "found"]);
    assert_eq!((done.succeeds(), &*done.stderr), ("found\n", ""));
    let pulled = home.run(&["run", &image("busybox"), "--", "echo", "pulled"]);
    assert_eq!(pulled.succeeds(), "pulled\n");
    assert!(pulled.stderr.starts_with("no snapshot of "), "{pulled:?}");
    assert_eq!(home.names(), ["busybox"]);
    // Another image must not take the name away.
    home.run(&["run", &format!("{}:other", image("elsewhere/busybox")), "--", "true"])
        .fails(125, &["no such image"]);
    let store = home.open_store();
    let busybox = store.summary(store.digest("busybox").unwrap()).unwrap();
    store.layout().set_name("redis", busybox.descriptor).unwrap();
    store.remove("busybox").unwrap();
    home.run(&["run", &image("redis"), "--", "true"]).fails(125, &["the name redis", "--name"]);
}

#[test]
fn ls_and_inspect_show_the_pulled_image() {
    let table = HOME.run(&["ls"]);
    let row = table.succeeds().lines().find(|line| line.starts_with("bb ")).unwrap();
    assert!(row.contains("/busybox:latest") && row.contains(" 128 MiB  1 "), "{row}");
    let listed: Value = serde_json::from_str(HOME.run(&["ls", "--json"]).succeeds()).unwrap();
    let listed = listed.as_array().unwrap().iter().find(|row| row["name"] == "bb").unwrap();
    let json = HOME.run(&["inspect", "bb", "--json"]);
    let shown: Value = serde_json::from_str(json.succeeds()).unwrap();
    assert_eq!(listed["digest"], shown["digest"]);
    let size: u64 =
        ["own", "shared"].iter().map(|part| shown[part]["total"].as_u64().unwrap()).sum();
    assert_eq!(listed["size"], size);
    let stages: Vec<_> =
        shown["lineage"].as_array().unwrap().iter().map(|stage| &stage["stage"]).collect();
    assert_eq!(stages, ["image", "base", "boot"]);
    assert_eq!(shown["image"]["ready"], "auto");
    assert_eq!(shown["disks"].as_array().unwrap().len(), 1);
    assert!(shown["working_set"]["written_pages"].as_u64().unwrap() > 0);
    let text = HOME.run(&["inspect", "bb"]);
    for label in ["name", "digest", "entrypoint", "lineage", "working set", "own"] {
        assert!(text.succeeds().contains(&format!("{label} ")), "{label}: {text:?}");
    }
}

#[test]
fn second_pull_reuses_the_bake_and_rm_removes_the_name() {
    let pull = ["pull", "--memory", "128", "--name", "twin", &image("busybox")];
    let done = HOME.run(&pull);
    assert_eq!(done.succeeds(), "twin\n");
    assert!(done.stderr.contains("was baked before"), "{done:?}");
    assert_eq!(run(&["twin", "--", "echo", "x"]).succeeds(), "x\n");
    assert_eq!(HOME.run(&["rm", "twin"]).succeeds(), "");
    assert!(!HOME.names().contains(&"twin".to_owned()));
    HOME.run(&["rm", "twin"]).fails(1, &["\"twin\""]);
    assert_eq!(HOME.run(&[&["-q"], &pull[..]].concat()).stderr, "");
}

#[test]
fn snapshot_runs_after_it_was_exported_swept_away_and_imported() {
    let home = Home::with_assets();
    let pull = ["pull", "--memory", "128", "--name", "bb", &image("busybox")];
    home.run(&pull).succeeds();
    home.run(&["run", "bb", "--", "true"]).succeeds();
    let file = home.path("bb.tar").display().to_string();
    home.run(&["export", "bb", &file]).succeeds();
    home.run(&["rm", "bb"]).succeeds();
    let freed = home.run(&["gc", "--all"]);
    assert!(freed.succeeds().contains("\nfreed: "), "{freed:?}");
    assert_eq!(files(&home.store().join("blobs/sha256")), [""; 0]);
    assert_eq!(home.run(&["import", &file]).succeeds(), "bb\n");
    for way in ["on demand", "mapped"] {
        assert_eq!(home.run(&["run", "bb", "--", "echo", way]).succeeds(), format!("{way}\n"));
    }
    home.run(&["gc"]).succeeds();
    home.run(&["verify", "--all"]).succeeds();
    assert_eq!(home.run(&["run", "bb", "--", "echo", "x"]).succeeds(), "x\n");
    assert_eq!(home.run(&pull).succeeds(), "bb\n");
}

#[test]
fn snapshot_runs_after_it_was_pushed_and_pulled() {
    let registry = DockerRegistry::start(None);
    let at = format!("{}/apps/bb:warm", registry.address);
    HOME.run(&["push", "bb", &at]).succeeds();
    let home = Home::with_assets();
    assert_eq!(home.run(&["pull", "--name", "warm", &at]).succeeds(), "warm\n");
    assert_eq!(home.run(&["run", "warm", "--", "echo", "x"]).succeeds(), "x\n");
    home.run(&["verify", "--all"]).succeeds();
}

#[test]
fn pull_overrides_what_the_image_runs() {
    let script = "echo ready as $(id -u) in $PWD with $A; sleep 1000";
    let done = HOME.run(&[
        "pull",
        "--memory",
        "128",
        "--name",
        "own",
        "--entrypoint",
        "/bin/sh",
        "-e",
        "A=b",
        "-u",
        "1000",
        "-w",
        "/tmp",
        "--ready",
        "log:ready as 1000 in /tmp with b",
        &image("busybox"),
        "--",
        "-c",
        script,
    ]);
    assert_eq!(done.succeeds(), "own\n");
    assert_eq!(run(&["own", "sh", "-c", "echo $A; id -u; pwd"]).succeeds(), "b\n1000\n/tmp\n");
    let shown = HOME.run(&["inspect", "own"]);
    assert!(shown.succeeds().contains("/bin/sh -c 'echo ready as"), "{shown:?}");
}

#[test]
fn failed_pull_leaves_no_name() {
    let bake = |arguments: &[&str]| {
        let image = image("busybox");
        HOME.run(&[&["pull", "--memory", "128", "--name", "bad"], arguments, &[&image]].concat())
    };
    bake(&["--entrypoint", "/nosuch"]).fails(1, &["entrypoint cannot be started", "/nosuch"]);
    bake(&["--entrypoint", "/bin/false"]).fails(1, &["exit code 1"]);
    bake(&["--ready", "tcp:1"]).fails(1, &["exit code 0 before it was ready (tcp:1)"]);
    HOME.run(&[
        "pull",
        "--memory",
        "128",
        "--name",
        "bad",
        "--ready",
        "tcp:1",
        "--ready-timeout",
        "1",
        "--entrypoint",
        "sleep",
        &image("busybox"),
        "--",
        "1000",
    ])
    .fails(1, &["not ready (tcp:1) within 1s"]);
    HOME.run(&["pull", "--name", "bad", &image("nosuch")]).fails(1, &["no such image"]);
    assert!(!HOME.names().contains(&"bad".to_owned()));
}

#[test]
fn interrupted_pull_leaves_no_name_and_no_files() {
    let home = Home::with_assets();
    let image = image("busybox");
    let never = ["--ready", "tcp:1", "--entrypoint", "sleep", &image, "--", "1000"];
    let mut command = home.command(&[&["pull", "--name", "half"], &never[..]].concat());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line == "waiting until it is ready"));
    assert_eq!(interrupt(&mut child), Some(2));
    assert_eq!(home.names(), [""; 0]);
    let tmp = home.store().join("tmp");
    age(&tmp);
    home.run(&["ls"]).succeeds();
    assert_eq!(files(&tmp), [""; 0]);
}

#[test]
fn doctor_says_machines_can_run() {
    let done = HOME.run(&["doctor"]);
    assert!(done.succeeds().ends_with("\nmachines can run here\n"), "{done:?}");
    assert!(!done.stdout.contains("FAILED"), "{done:?}");
}
