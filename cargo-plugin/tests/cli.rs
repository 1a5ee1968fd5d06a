//! The commands on any host, with no hypervisor: arguments, messages, statuses, the store.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/registry.rs"]
mod registry;
mod support;

use std::fs;
use std::process::{Command, Stdio};

use registry::Registry;
use serde_json::Value;
use support::{Home, age, files, interrupt};

const COMMANDS: [&str; 6] = ["pull", "run", "ls", "inspect", "rm", "doctor"];
/// The digest of nothing that a store has.
const ABSENT: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n";

/// Runs the command where `/dev` is empty, so that there is no hypervisor for sure.
fn without_hypervisor(home: &Home, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c"]);
    command.args(["mount -t tmpfs none /dev && exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_supermachine")).args(arguments);
    let output = home.prepare(&mut command).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn no_arguments_show_the_help_and_fail() {
    Home::new().run::<&str>(&[]).fails(2, &["Usage: supermachine", "Examples:", "doctor"]);
}

#[test]
fn help_of_every_command_goes_to_stdout_in_short_lines() {
    let home = Home::new();
    let general = home.run(&["--help"]).succeeds().to_owned();
    for command in COMMANDS {
        assert!(general.contains(&format!("\n  {command} ")), "{general}");
        let help = home.run(&[command, "--help"]);
        assert!(help.succeeds().contains(&format!("Usage: supermachine {command}")), "{help:?}");
        assert_eq!(help.stderr, "");
        let is_long = |line: &&str| line.chars().count() > 100;
        assert_eq!(help.stdout.lines().find(is_long), None);
    }
    for command in ["pull", "run"] {
        assert!(home.run(&[command, "--help"]).stdout.contains("Examples:\n  supermachine "));
    }
}

#[test]
fn cargo_runs_the_same_commands() {
    let home = Home::new();
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cargo-supermachine"));
        home.prepare(&mut command).args(arguments).output().unwrap()
    };
    for arguments in [&["supermachine", "ls", "--json"][..], &["ls", "--json"]] {
        let output = cargo(arguments);
        assert!(output.status.success());
        assert_eq!(output.stdout, b"[]\n");
    }
    let help = String::from_utf8(cargo(&["supermachine", "ls", "-h"]).stdout).unwrap();
    assert!(help.contains("Usage: cargo supermachine ls"), "{help}");
}

#[test]
fn ls_of_an_empty_store_is_empty_and_makes_nothing() {
    let home = Home::new();
    let done = home.run(&["ls"]);
    assert_eq!(done.succeeds(), "");
    assert!(done.stderr.contains("supermachine pull IMAGE"), "{done:?}");
    assert_eq!(home.run(&["ls", "--json"]).succeeds(), "[]\n");
    let quiet = home.run(&["ls", "-q"]);
    assert_eq!((quiet.succeeds(), quiet.stderr.as_str()), ("", ""));
    assert!(!home.path("data").exists());
}

#[test]
fn store_is_taken_from_option_before_variable_before_data_folder() {
    let home = Home::new();
    let told = |command: &mut Command| String::from_utf8(command.output().unwrap().stderr).unwrap();
    let (option, variable) = (home.path("option"), home.path("variable"));
    let by_folder = told(&mut home.command(&["ls"]));
    assert!(by_folder.contains(home.store().to_str().unwrap()), "{by_folder}");
    let by_variable = told(home.command(&["ls"]).env("SUPERMACHINE_STORE", &variable));
    assert!(by_variable.contains(variable.to_str().unwrap()), "{by_variable}");
    let mut command = home.command(&["ls", "--store"]);
    let by_option = told(command.arg(&option).env("SUPERMACHINE_STORE", &variable));
    assert!(by_option.contains(option.to_str().unwrap()), "{by_option}");
}

#[test]
fn unknown_snapshot_is_named_with_the_store() {
    let home = Home::new();
    let store = home.store();
    for command in ["inspect", "rm"] {
        home.run(&[command, "nosuch"]).fails(1, &["\"nosuch\"", store.to_str().unwrap()]);
    }
    home.add_name("there", ABSENT);
    home.run(&["inspect", "nosuch"]).fails(1, &["\"nosuch\""]);
    home.run(&["inspect", "../names/there"]).fails(1, &["not a snapshot name"]);
}

#[test]
fn rm_removes_all_that_it_can() {
    let home = Home::new();
    home.add_name("a", ABSENT);
    home.add_name("b", ABSENT);
    home.add_name("c", ABSENT);
    home.run(&["rm", "a", "nosuch", "b"]).fails(1, &["\"nosuch\""]);
    assert_eq!(home.names(), ["c"]);
    assert_eq!(home.run(&["rm", "c"]).succeeds(), "");
    home.run(&["rm"]).fails(2, &["<NAME>"]);
}

#[test]
fn damaged_snapshot_is_told_and_hides_no_other() {
    let home = Home::new();
    home.add_name("broken", ABSENT);
    home.add_name("garbage", "not a digest");
    let done = home.run(&["ls"]);
    done.fails(1, &["the snapshot broken", "is missing", "the snapshot garbage"]);
    home.run(&["run", "broken", "--", "true"]).fails(125, &["is missing"]);
    home.run(&["run", "garbage", "--", "true"]).fails(125, &["does not name a snapshot"]);
}

#[test]
fn wrong_arguments_are_explained() {
    let home = Home::new();
    let cases: &[(&[&str], &str)] = &[
        (&["pull"], "<IMAGE>"),
        (&["pull", "--ready", "tcp:0", "x"], "none of tcp:PORT, log:REGEX"),
        (&["pull", "--ready", "log:(", "x"], "unclosed group"),
        (&["pull", "--memory", "1", "x"], "32"),
        (&["pull", "--vcpus", "17", "x"], "1..=16"),
        (&["pull", "--ready-timeout", "0", "x"], "not a time above zero"),
        (&["pull", "--platform", "linux", "x"], "os/architecture"),
        (&["pull", "--env", "=x", "x"], "has no name"),
        (&["pull", "--username", "me", "x"], "--password-stdin"),
        (&["ls", "extra"], "unexpected argument"),
        (&["nosuch"], "unrecognized subcommand"),
    ];
    for (arguments, said) in cases {
        home.run(arguments).fails(2, &[said]);
    }
    home.run(&["pull", "--name", "../x", "x"]).fails(1, &["not a snapshot name"]);
    home.run(&["pull", "UPPER"]).fails(1, &["\"UPPER\" does not name an image"]);
    assert!(!home.path("data").exists());
}

#[test]
fn run_fails_with_a_status_that_no_command_means() {
    let home = Home::new();
    home.run(&["run"]).fails(125, &["<NAME|IMAGE>"]);
    home.run(&["run", "x"]).fails(125, &["no command to run", "run x -- COMMAND"]);
    home.run(&["run", "--nosuch", "x"]).fails(125, &["--nosuch"]);
    home.run(&["-q", "--store", "/nosuch", "run", "--timeout", "0", "x"]).fails(125, &["time"]);
    home.run(&["run", "UPPER", "--", "true"]).fails(125, &["does not name an image"]);
}

#[test]
fn run_of_what_is_neither_here_nor_to_be_had_says_both() {
    let home = Home::new();
    let store = home.store();
    let missing = format!("no snapshot of docker.io/library/nosuch:latest in {}", store.display());
    home.run(&["run", "--offline", "nosuch", "--", "true"])
        .fails(125, &[&missing, "and it cannot be pulled\n  because "]);
}

#[test]
fn missing_assets_are_told_before_anything_is_fetched() {
    let home = Home::new();
    fs::remove_file(home.path("assets/init")).unwrap();
    home.run(&["pull", "x"]).fails(1, &["guest kernel or agent", "assets/init is missing"]);
    home.run(&["run", "x", "--", "true"]).fails(125, &["assets/init is missing"]);
    assert!(!home.path("data").exists());
}

#[test]
fn without_a_hypervisor_every_command_says_so() {
    let home = Home::new();
    let (status, stdout, stderr) = without_hypervisor(&home, &["pull", "x"]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("`supermachine doctor`"), "{stderr}");
    assert!(stderr.contains("no hypervisor at /dev/kvm"), "{stderr}");
    let (status, _, stderr) = without_hypervisor(&home, &["run", "x", "--", "true"]);
    assert_eq!(status, 125);
    assert!(stderr.contains("no hypervisor at /dev/kvm"), "{stderr}");
    let (status, stdout, _) = without_hypervisor(&home, &["doctor"]);
    assert_eq!(status, 1);
    assert!(stdout.contains("FAILED   hypervisor    /dev/kvm cannot be opened"), "{stdout}");
    assert!(stdout.contains("to mend it: "), "{stdout}");
    assert!(stdout.ends_with("machines cannot run here\n"), "{stdout}");
}

#[test]
fn doctor_json_agrees_with_its_status() {
    let home = Home::new();
    let done = home.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    for wanted in ["processor", "hypervisor", "guest kernel", "store", "cache", "memory"] {
        assert!(names.contains(&wanted), "{names:?}");
    }
    for check in checks {
        let status = check["status"].as_str().unwrap();
        assert!(["ok", "warning", "failed"].contains(&status), "{check}");
        assert!(!check["found"].as_str().unwrap().is_empty());
        assert_eq!(check["remedy"].is_string(), status != "ok", "{check}");
    }
    let is_usable = checks.iter().all(|check| check["status"] != "failed");
    assert_eq!(report["usable"], is_usable);
    assert_eq!(done.status, i32::from(!is_usable));
    assert!(!home.path("data").exists() && !home.path("cache").exists());
}

#[test]
fn doctor_finds_missing_assets_and_a_store_that_cannot_be() {
    let home = Home::new();
    fs::remove_file(home.path("assets/vmlinux")).unwrap();
    fs::write(home.path("data"), "a file").unwrap();
    let done = home.run(&["doctor", "--json"]);
    assert_eq!(done.status, 1);
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let status = |name: &str| {
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap()["status"].clone()
    };
    assert_eq!(status("guest kernel"), "failed");
    assert_eq!(status("store"), "failed");
    assert_ne!(status("cache"), "failed");
}

#[test]
fn fetch_only_tells_its_steps_and_prints_no_result() {
    let home = Home::new();
    let registry = Registry::start(false, false);
    let image = registry.image();
    let done = home.run(&["pull", "--fetch-only", &image]);
    assert_eq!(done.succeeds(), "");
    for line in ["fetching the image\n", "1 layer", " fetched, 1.1 MB\n", "root file system"] {
        assert!(done.stderr.contains(line), "{done:?}");
    }
    assert_eq!(home.names(), [""; 0]);
    let again = home.run(&["pull", "--fetch-only", &image]);
    assert!(again.stderr.contains(" in the cache, 1.1 MB\n"), "{again:?}");
    let quiet = home.run(&["-q", "pull", "--offline", "--fetch-only", &image]);
    assert_eq!((quiet.succeeds(), &*quiet.stderr), ("", ""));
}

#[test]
fn password_comes_from_stdin() {
    let home = Home::new();
    let registry = Registry::start(true, false);
    let image = registry.image();
    let pull = ["pull", "--fetch-only", "--username", "me", "--password-stdin", &image];
    home.run_with_input(&pull, "wrong\n").fails(1, &["refused access"]);
    home.run_with_input(&pull, "\n").fails(1, &["no password on standard input"]);
    home.run(&["pull", "--fetch-only", &image]).fails(1, &["refused access without credentials"]);
    assert_eq!(home.run_with_input(&pull, "secret\n").succeeds(), "");
}

#[test]
fn interrupted_pull_leaves_nothing_that_the_next_does_not_remove() {
    let home = Home::new();
    let registry = Registry::start(false, true);
    let mut command = home.command(&["pull", "--fetch-only", &registry.image()]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    registry.wait_until_stalled();
    assert_eq!(interrupt(&mut child), Some(2));
    let downloads = home.path("cache/supermachine/downloads");
    let whole = files(&downloads.join("blobs/sha256"));
    assert_eq!(files(&home.store().join("blobs/sha256")), [""; 0]);
    assert_eq!(home.names(), [""; 0]);
    age(&downloads.join("tmp"));
    age(&home.store().join("tmp"));
    registry.stall_no_more();
    home.run(&["pull", "--fetch-only", &registry.image()]).succeeds();
    assert_eq!(files(&downloads.join("tmp")), [""; 0]);
    assert_eq!(files(&home.store().join("tmp")), [""; 0]);
    assert_eq!(files(&downloads.join("blobs/sha256")).len(), whole.len() + 1);
    assert_eq!(files(&home.store().join("blobs/sha256")).len(), 1);
}
