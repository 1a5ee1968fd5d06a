//! The commands where there is a hypervisor, on a real image from the test registry.
//!
//! Needs the package `docker-registry`. A bake takes long where the hypervisor is emulated, so that all tests share one store.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::LazyLock;

use serde_json::Value;
use supermachine_test_support::registry::DockerRegistry;
use support::{Home, age, files, interrupt};

/// Ends with the process; its folder is removed by nobody, as statics are not dropped, but lies
/// where the host's temporary files lie.
static HOME: LazyLock<Home> = LazyLock::new(|| {
    let home = Home::with_assets();
    let done = home.run(&["pull", "--memory", "128", "--name", "bb", &image("busybox")]);
    assert_eq!(done.succeeds(), "bb\n");
    assert!(done.stderr.contains("\nbb is "), "{done:?}");
    home
});

fn image(name: &str) -> String {
    let registry = std::env::var("SUPERMACHINE_TEST_REGISTRY")
        .expect("SUPERMACHINE_TEST_REGISTRY tells where the test registry is");
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
}

#[test]
fn run_status_tells_what_went_wrong() {
    run(&["bb", "--", "nosuch"]).fails(127, &["nosuch: no such program"]);
    run(&["bb", "--", "/etc"]).fails(126, &["/etc: cannot be executed", "Permission denied"]);
    run(&["-w", "/nosuch", "bb", "--", "true"]).fails(125, &["/nosuch", "No such file"]);
    run(&["-u", "nosuch", "bb", "--", "true"]).fails(125, &["nosuch"]);
    assert_eq!(run(&["bb", "--", "sh", "-c", "kill -TERM $$"]).status, 128 + 15);
    assert_eq!(run(&["bb", "--", "sh", "-c", "exit 125"]).status, 125);
}

#[test]
fn run_kills_what_takes_too_long_and_keeps_its_output() {
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
fn run_leaves_standard_input_to_others() {
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
fn run_into_a_closed_pipe_ends_silently() {
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
fn run_tells_its_steps() {
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
fn ls_and_inspect_tell_what_was_pulled() {
    let table = HOME.run(&["ls"]);
    let row = table.succeeds().lines().find(|line| line.starts_with("bb ")).unwrap();
    assert!(row.contains("/busybox:latest") && row.contains(" 128 MiB  1 "), "{row}");
    let listed: Value = serde_json::from_str(HOME.run(&["ls", "--json"]).succeeds()).unwrap();
    let listed = listed.as_array().unwrap().iter().find(|row| row["name"] == "bb").unwrap();
    let json = HOME.run(&["inspect", "bb", "--json"]);
    let told: Value = serde_json::from_str(json.succeeds()).unwrap();
    assert_eq!(listed["digest"], told["digest"]);
    let size: u64 =
        ["own", "shared"].iter().map(|part| told[part]["total"].as_u64().unwrap()).sum();
    assert_eq!(listed["size"], size);
    let stages: Vec<_> =
        told["lineage"].as_array().unwrap().iter().map(|stage| &stage["stage"]).collect();
    assert_eq!(stages, ["image", "base", "boot"]);
    assert_eq!(told["image"]["ready"], "auto");
    assert_eq!(told["disks"].as_array().unwrap().len(), 1);
    assert!(told["working_set"]["written_pages"].as_u64().unwrap() > 0);
    let text = HOME.run(&["inspect", "bb"]);
    for label in ["name", "digest", "entrypoint", "lineage", "working set", "own"] {
        assert!(text.succeeds().contains(&format!("{label} ")), "{label}: {text:?}");
    }
}

#[test]
fn pull_again_is_quick_under_another_name_and_rm_takes_it_away() {
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
    let told = HOME.run(&["inspect", "own"]);
    assert!(told.succeeds().contains("/bin/sh -c 'echo ready as"), "{told:?}");
}

#[test]
fn pull_that_fails_leaves_no_name() {
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
fn doctor_finds_nothing_in_the_way() {
    let done = HOME.run(&["doctor"]);
    assert!(done.succeeds().ends_with("\nmachines can run here\n"), "{done:?}");
    assert!(!done.stdout.contains("FAILED"), "{done:?}");
}
