//! The commands without a hypervisor: arguments, messages, exit statuses, the store.
//!
//! Needs the package `docker-registry`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/registry.rs"]
mod registry;
mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use registry::Registry;
use serde_json::Value;
use supermachine_formats::snapshot::Stage;
use supermachine_test_support::registry::DockerRegistry;
use supermachine_test_support::stores::{Sample, put};
use support::{Done, Home, age, files, interrupt};

const COMMANDS: [&str; 29] = [
    "pull", "run", "ps", "exec", "logs", "cp", "stop", "kill", "restart", "rename", "pause",
    "unpause", "wait", "port", "stats", "top", "events", "ls", "inspect", "rm", "export", "import",
    "push", "verify", "gc", "df", "volume", "doctor", "codesign",
];

/// Runs the command with an empty `/dev`, so without a hypervisor.
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
fn no_arguments_print_the_help_and_fail() {
    Home::new().run::<&str>(&[]).fails(2, &["Usage: supermachine", "Examples:", "doctor"]);
}

#[test]
fn help_of_every_command_is_on_stdout_in_short_lines() {
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
fn cargo_has_these_commands_too() {
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
fn volumes_are_made_listed_shown_and_removed() {
    let home = Home::new();
    let volume = |arguments: &[&str]| home.run(&[&["volume"], arguments].concat());
    assert_eq!(volume(&["ls"]).succeeds(), "");
    assert_eq!(volume(&["ls", "--json"]).succeeds(), "[]\n");
    assert_eq!(volume(&["create", "data", "--size", "20g"]).succeeds(), "data\n");
    assert_eq!(volume(&["create", "--size", "64m", "b"]).succeeds(), "b\n");
    // An existing one stays as it is.
    assert_eq!(volume(&["create", "data"]).succeeds(), "data\n");
    assert_eq!(volume(&["ls", "-q"]).succeeds(), "b\ndata\n");
    let table = volume(&["ls"]);
    let rows: Vec<&str> = table.succeeds().lines().collect();
    assert!(rows[0].starts_with("NAME") && rows[2].contains("21.5 GB"), "{rows:?}");
    let shown = volume(&["inspect", "data"]);
    assert!(shown.succeeds().contains("\"size\": 21474836480"), "{shown:?}");
    assert!(shown.stdout.contains("\"in_use\": false"), "{shown:?}");
    // As Docker prints it.
    let missing = volume(&["inspect", "none"]);
    assert_eq!((missing.status, &*missing.stdout), (1, "[]\n"), "{missing:?}");
    assert!(missing.stderr.contains("there is no volume none"), "{missing:?}");
    volume(&["create", "a/b"]).fails(1, &["\"a/b\" is not a name for a volume"]);
    volume(&["create", "a", "--size", "1m"]).fails(1, &["at least 67108864"]);
    volume(&["rm", "b", "none"]).fails(1, &["there is no volume none"]);
    assert_eq!(volume(&["ls", "-q"]).succeeds(), "data\n");
    assert_eq!(volume(&["rm", "--force", "none"]).succeeds(), "");
    volume(&["prune"]).fails(1, &["would remove", "data", "--force"]);
    assert_eq!(volume(&["prune", "--force"]).succeeds(), "data\n");
    assert_eq!(volume(&["ls"]).succeeds(), "");
}

#[test]
fn ls_without_a_store_is_empty_and_creates_nothing() {
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
fn store_option_wins_over_variable_and_data_folder() {
    let home = Home::new();
    let shown =
        |command: &mut Command| String::from_utf8(command.output().unwrap().stderr).unwrap();
    let (option, variable) = (home.path("option"), home.path("variable"));
    let by_folder = shown(&mut home.command(&["ls"]));
    assert!(by_folder.contains(home.store().to_str().unwrap()), "{by_folder}");
    let by_variable = shown(home.command(&["ls"]).env("SUPERMACHINE_STORE", &variable));
    assert!(by_variable.contains(variable.to_str().unwrap()), "{by_variable}");
    let mut command = home.command(&["ls", "--store"]);
    let by_option = shown(command.arg(&option).env("SUPERMACHINE_STORE", &variable));
    assert!(by_option.contains(option.to_str().unwrap()), "{by_option}");
}

#[test]
fn unknown_snapshot_is_named_with_the_store() {
    let home = Home::new();
    let store = home.store();
    for arguments in [
        &["inspect", "nosuch"][..],
        &["rm", "nosuch"],
        &["export", "nosuch", "-"],
        &["push", "nosuch", "127.0.0.1:1/x"],
        &["verify", "nosuch"],
    ] {
        home.run(arguments).fails(1, &["\"nosuch\"", store.to_str().unwrap()]);
    }
    home.add_name("there");
    home.run(&["inspect", "nosuch"]).fails(1, &["\"nosuch\""]);
    home.run(&["inspect", "../there"]).fails(1, &["not a snapshot name"]);
}

#[test]
fn rm_removes_all_that_it_can() {
    let home = Home::new();
    home.add_name("a");
    home.add_name("b");
    home.add_name("c");
    home.run(&["rm", "a", "nosuch", "b"]).fails(1, &["\"nosuch\""]);
    assert_eq!(home.names(), ["c"]);
    assert_eq!(home.run(&["rm", "c"]).succeeds(), "");
    home.run(&["rm"]).fails(2, &["<NAME>"]);
}

#[test]
fn damaged_snapshot_is_reported_and_hides_no_other() {
    let home = Home::new();
    home.add_name("broken");
    let whole = put(home.open_store().layout(), &Sample::new(1));
    home.open_store().layout().set_name("whole", whole).unwrap();
    let done = home.run(&["ls"]);
    assert_eq!(done.status, 1);
    assert!(done.stderr.contains("the snapshot broken"), "{done:?}");
    assert!(done.stderr.contains("is missing"), "{done:?}");
    assert!(done.stdout.contains("\nwhole  registry.example/sample:1 "), "{done:?}");
    home.run(&["run", "broken", "--", "true"]).fails(125, &["is missing"]);
    let done = home.run(&["verify", "--all"]);
    assert_eq!((done.status, done.stdout.lines().count()), (1, 2));
    assert!(done.stdout.starts_with("broken: damaged\nwhole: intact, "), "{done:?}");
    home.run(&["gc"]).fails(1, &["snapshot broken cannot be read"]);
    home.run(&["rm", "broken"]).succeeds();
    home.run(&["gc"]).succeeds();
    home.run(&["verify", "--all"]).succeeds();
}

#[test]
fn damaged_index_is_reported_by_every_command() {
    let home = Home::new();
    home.add_name("x");
    fs::write(home.store().join("index.json"), "{").unwrap();
    for arguments in [&["ls"][..], &["inspect", "x"], &["rm", "x"], &["gc"], &["df"]] {
        home.run(arguments).fails(1, &["index.json is not JSON"]);
    }
    home.run(&["run", "x", "--", "true"]).fails(125, &["index.json is not JSON"]);
}

/// A home with two snapshots of one base.
fn two() -> Home {
    let home = Home::new();
    let store = home.open_store();
    let base = put(store.layout(), &Sample::new(1).stage(Stage::Base));
    for (name, seed) in [("a", 2), ("b", 3)] {
        let manifest = put(store.layout(), &Sample::new(seed).on(base.digest).disk(&[7]));
        store.layout().set_name(name, manifest).unwrap();
    }
    home
}

#[test]
fn inspect_and_df_show_shared_sizes() {
    let home = two();
    let shown: Value =
        serde_json::from_str(home.run(&["inspect", "a", "--json"]).succeeds()).unwrap();
    let size = |kind: &str, part: &str| shown[kind][part].as_u64().unwrap();
    assert!(size("shared", "memory") > 3 * 65_536 && size("shared", "disks") > 65_536);
    assert!(size("own", "memory") > 3 * 65_536 && size("own", "disks") == 0);
    assert_eq!(shown["shared_with"]["b"], shown["shared"]["total"]);
    let stages: Vec<_> =
        shown["lineage"].as_array().unwrap().iter().map(|stage| &stage["stage"]).collect();
    assert_eq!(stages, ["image", "base"]);
    let usage: Value = serde_json::from_str(home.run(&["df", "--json"]).succeeds()).unwrap();
    assert_eq!(usage["snapshots"]["a"]["own"], shown["own"]["total"]);
    assert_eq!(usage["snapshots"]["a"]["shared"], shown["shared"]["total"]);
    let listed: Value = serde_json::from_str(home.run(&["ls", "--json"]).succeeds()).unwrap();
    assert_eq!(listed[0]["size"], size("own", "total") + size("shared", "total"));
    let text = home.run(&["inspect", "a"]);
    for label in ["own ", "shared ", "shared with ", "format ", "lineage "] {
        assert!(text.succeeds().contains(&format!("\n{label}")), "{label}: {text:?}");
    }
    let text = home.run(&["df"]);
    assert!(text.succeeds().starts_with("NAME  OWN"), "{text:?}");
    home.run(&["rm", "a", "b"]).succeeds();
    assert!(home.run(&["gc", "--dry-run"]).succeeds().contains("\nto be freed: "));
    assert!(home.run(&["gc", "--no-wait"]).succeeds().contains("\nfreed: "));
    assert_eq!(files(&home.store().join("blobs/sha256")), [""; 0]);
    let _held = home.open_store().layout().hold().unwrap();
    home.run(&["gc", "--no-wait"]).fails(1, &["in use by a bake"]);
}

#[test]
fn export_and_import_move_snapshots_between_stores() {
    let (home, other) = (two(), Home::new());
    let file = home.path("a.tar").display().to_string();
    let done = home.run(&["export", "a", &file]);
    assert_eq!(done.succeeds(), "");
    assert!(done.stderr.starts_with("exported a to "), "{done:?}");
    assert_eq!(other.run(&["import", &file]).succeeds(), "a\n");
    assert_eq!(other.run(&["-q", "import", "--name", "c", &file]).stderr, "");
    assert_eq!(
        other.run(&["pull", &format!("oci-archive:{file}"), "--name", "d"]).succeeds(),
        "d\n"
    );
    assert_eq!(other.names(), ["a", "c", "d"]);
    other.run(&["verify", "--all"]).succeeds();
    let piped = home.sh("$0 export a - | cmp - \"$HOME/a.tar\"");
    assert_eq!(piped.status, 0, "{piped:?}");
    let folder = home.store().display().to_string();
    assert_eq!(Home::new().run(&["import", &folder]).succeeds(), "a\nb\n");
    other.run(&["import", "/nosuch"]).fails(1, &["no snapshot at /nosuch"]);
    fs::write(home.path("text.tar"), "x".repeat(2000)).unwrap();
    let text = home.path("text.tar").display().to_string();
    other.run(&["import", &text]).fails(1, &["damaged at byte 0"]);
}

#[test]
fn push_and_pull_move_snapshots_through_a_registry() {
    let (home, other) = (two(), Home::new());
    let registry = DockerRegistry::start(None);
    let at = format!("{}/apps/a:v1", registry.address);
    let done = home.run(&["push", "a", &at]);
    assert_eq!(done.succeeds(), format!("{}\n", home.open_store().digest("a").unwrap()));
    assert!(done.stderr.contains(" sent, 0 B already there\n"), "{done:?}");
    let again = home.run(&["push", "a", &at]);
    assert!(again.stderr.contains(": 0 B sent, "), "{again:?}");
    // Starts no machine, so it needs no hypervisor.
    let (status, stdout, stderr) = without_hypervisor(&other, &["pull", &at]);
    assert_eq!((status, stdout.as_str()), (0, "a\n"), "{stderr}");
    assert_eq!(other.run(&["pull", "--fetch-only", "--name", "twin", &at]).succeeds(), "twin\n");
    other.run(&["verify", "--all"]).succeeds();
    home.run(&["push", "a", "UPPER"]).fails(1, &["does not name an image"]);
    home.run(&["push", "a", "127.0.0.1:1/x"])
        .fails(1, &["cannot be pushed", "stopped at byte 0 of"]);
}

#[test]
fn wrong_arguments_are_explained() {
    let home = Home::new();
    let cases: &[(&[&str], &str)] = &[
        (&["pull"], "<IMAGE>"),
        (&["pull", "--ready", "tcp:0", "x"], "not one of tcp:PORT, log:REGEX"),
        (&["pull", "--ready", "log:(", "x"], "unclosed group"),
        (&["pull", "--memory", "1", "x"], "64 MiB to 96 GiB"),
        (&["pull", "--vcpus", "33", "x"], "33 is not in 1 to 32"),
        (&["pull", "--ready-timeout", "0", "x"], "not a duration above zero"),
        (&["pull", "--after-restore", "signal:FOO", "x"], "not one of restart, signal:SIGNAL"),
        (&["cp", "--chown", "app:", "x", "web:/x"], "not USER[:GROUP]"),
        (&["cp", "-a", "--chown", "app", "x", "web:/x"], "cannot be used with"),
        (&["pull", "--platform", "linux", "x"], "os/architecture"),
        (&["pull", "--tmpfs", "run", "x"], "its path must be absolute"),
        (&["pull", "--ulimit", "nofile=2:1", "x"], "the soft limit is at most the hard one"),
        (&["pull", "--shm-size", "1x", "x"], "not a size"),
        (&["events", "--since", "soon"], "not a time"),
        (&["events", "--filter", "color=red"], "not one of event, machine"),
        (&["rename", "x"], "<NAME>"),
        (&["pull", "--env", "=x", "x"], "has no name"),
        (&["pull", "--username", "me", "x"], "--password-stdin"),
        (&["ls", "extra"], "unexpected argument"),
        (&["nosuch"], "unrecognized subcommand"),
        (&["images"], "there is no command \"images\": `supermachine ls` lists snapshots"),
        (&["login", "registry.example"], "`docker login` and `podman login` store credentials"),
    ];
    for (arguments, said) in cases {
        home.run(arguments).fails(2, &[said]);
    }
    home.run(&["pull", "--name", "../x", "x"]).fails(1, &["not a snapshot name"]);
    let long = "n".repeat(129);
    let said = "is not a snapshot name: it has 129 characters, more than the 128 allowed";
    home.run(&["pull", "--name", &long, "x"]).fails(1, &[said]);
    // Before a pull.
    home.run(&["run", "-d", "--name", &long, "x"])
        .fails(125, &["is not a machine name: it has 129"]);
    home.run(&["pull", "http://registry.example/x"]).fails(1, &["HOST[:PORT]/NAME", "--insecure"]);
    home.run(&["pull", "registry.example/Team/x"]).fails(1, &["has capital letters"]);
    home.run(&["pull", "UPPER"]).fails(1, &["\"UPPER\" does not name an image"]);
    assert!(!home.path("data").exists());
}

#[test]
fn options_of_docker_without_a_meaning_say_why() {
    let home = Home::new();
    for (option, said) in [
        ("--volumes-from", "folders of this host"),
        ("--dns=1.1.1.1", "asks this host's name servers"),
        ("--link", "alone on its network"),
        ("--privileged", "kernel of its own"),
        ("--sysctl", "kernel of its own"),
    ] {
        home.run(&["run", option, "x"]).fails(125, &["is not supported: ", said]);
    }
    home.run(&["run", "-v", ".data:/b", "x"]).fails(125, &["\".data\" is not a name"]);
    home.run(&["run", "-v", "/nosuch:/b", "x"]).fails(125, &["there is no folder /nosuch"]);
    home.run(&["run", "-v", "/etc/passwd:/b", "x"]).fails(125, &["passwd is not a folder"]);
    home.run(&["run", "-v", "/etc:/proc", "x"])
        .fails(125, &["no folder can be shared at \"/proc\""]);
    let mount = home.run(&["run", "--mount", "source=/data,target=/b", "x"]);
    mount.fails(125, &["type=bind is missing"]);
    home.run(&["run", "--init", "x"]).fails(125, &["which every machine has", "--init image"]);
    home.run(&["run", "--network", "bridge", "x"]).fails(125, &["\"bridge\" is not a destination"]);
    home.run(&["run", "--net", "host", "x"]).fails(125, &["`host` needs a port"]);
    home.run(&["run", "--net", "10.0.0.1/8", "x"]).fails(125, &["bits beyond its prefix"]);
    home.run(&["run", "--cpus", "1.5", "x"]).fails(125, &["whole processors: use 2"]);
    let action = home.run(&["run", "--after-restore", "exec:", "x"]);
    action.fails(125, &["not one of restart, signal:SIGNAL"]);
    home.run(&["run", "-m", "1k", "x"]).fails(125, &["64 MiB"]);
    home.run(&["run", "-w", "relative", "x"]).fails(125, &["not an absolute path: use /relative"]);
    home.run(&["run", "--env-file", "/nosuch", "-d", "x"]).fails(125, &["cannot read /nosuch"]);
    home.run(&["kill", "-s", "NOSUCH", "x"]).fails(2, &["not a signal"]);
}

#[test]
fn argument_that_is_not_utf8_is_named() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new();
    let bytes = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let refused = home.run(&["run".as_ref(), bytes, "true".as_ref()]);
    refused.fails(125, &[r#"the argument "\xFF\xFE" is not UTF-8"#]);
}

#[test]
fn lists_have_a_quiet_and_a_json_form() {
    let home = Home::new();
    for arguments in
        [&["ps", "--format", "json"][..], &["ls", "--format", "json"], &["stats", "--json"]]
    {
        assert_eq!(home.run(arguments).succeeds(), "[]\n");
    }
    assert_eq!(home.run(&["ps", "-q"]).succeeds(), "");
    assert_eq!(home.run(&["ps", "-a", "-q"]).succeeds(), "");
    home.add_name("broken");
    let whole = put(home.open_store().layout(), &Sample::new(1));
    home.open_store().layout().set_name("whole", whole).unwrap();
    assert_eq!(home.run(&["ls", "-q"]).stdout, "whole\n");
}

#[test]
fn run_fails_with_a_status_of_its_own() {
    let home = Home::new();
    home.run(&["run"]).fails(125, &["<NAME|IMAGE>"]);
    home.run(&["run", "--pull", "never", "x"])
        .fails(125, &["no snapshot of docker.io/library/x:latest", "--pull never"]);
    home.run(&["run", "./nosuch", "true"]).fails(125, &["cannot open ./nosuch", "No such file"]);
    home.run(&["run", "--nosuch", "x"]).fails(125, &["--nosuch"]);
    home.run(&["-q", "--store", "/nosuch", "run", "--timeout", "0", "x"]).fails(125, &["duration"]);
    home.run(&["run", "UPPER", "--", "true"]).fails(125, &["does not name an image"]);
}

#[test]
fn run_of_an_unavailable_image_says_why() {
    let home = Home::new();
    let store = home.store();
    let missing = format!("no snapshot of docker.io/library/nosuch:latest in {}", store.display());
    home.run(&["run", "--offline", "nosuch", "--", "true"])
        .fails(125, &[&missing, "and it cannot be pulled\n  because "]);
}

#[test]
fn missing_assets_fail_before_any_download() {
    let home = Home::new();
    fs::remove_file(home.path("assets/init")).unwrap();
    home.run(&["pull", "x"]).fails(1, &["guest kernel or agent", "assets/init is missing"]);
    home.run(&["run", "x", "--", "true"]).fails(125, &["assets/init is missing"]);
    assert!(!home.path("data").exists());
}

#[test]
fn missing_hypervisor_is_named_by_every_command() {
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
    assert!(stdout.contains("fix: "), "{stdout}");
    assert!(stdout.ends_with("machines cannot run here\n"), "{stdout}");
}

#[test]
fn doctor_json_agrees_with_its_status() {
    let home = Home::new();
    let done = home.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    for wanted in
        ["processor", "hypervisor", "guest kernel", "store", "cache", "credentials", "memory"]
    {
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
fn doctor_finds_missing_assets_and_an_unusable_store() {
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
fn fetch_only_reports_its_steps_and_prints_no_result() {
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
fn short_names_mean_what_registries_conf_says() {
    let home = Home::new();
    let registry = Registry::start(false, false);
    let conf = home.path("registries.conf");
    let pull = |text: &str, image: &str| {
        fs::write(&conf, text).unwrap();
        let mut command = home.command(&["pull", "--fetch-only", image]);
        Done::of(&command.env("CONTAINERS_REGISTRIES_CONF", &conf).output().unwrap())
    };
    let alias = format!("[aliases]\n\"team/app\" = \"{}\"", registry.image());
    let found = format!("  {}:latest is ", registry.image());
    let done = pull(&alias, "team/app");
    assert!(done.status == 0 && done.stderr.contains(&found), "{done:?}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let search =
        format!("unqualified-search-registries = [\"{closed}\", \"{}\"]", registry.address);
    let done = pull(&search, "small");
    assert!(done.status == 0 && done.stderr.contains(&found), "{done:?}");
    let missing =
        format!("{closed}/small:latest is not there: the registry {closed} cannot be reached");
    assert!(done.stderr.contains(&missing), "{done:?}");
    pull("[aliases", "small").fails(1, &["registries.conf is malformed"]);
}

#[test]
fn proxy_that_cannot_be_used_is_named() {
    let home = Home::new();
    let mut command = home.command(&["pull", "--fetch-only", "registry.test/small"]);
    command.env("https_proxy", "ftp://me:geheim@proxy.test").env_remove("HTTPS_PROXY");
    let done = Done::of(&command.output().unwrap());
    done.fails(1, &["proxy \"ftp://proxy.test\" cannot be used", "HTTPS_PROXY", "\"ftp\""]);
    assert!(!done.stderr.contains("geheim"), "{done:?}");
}

#[test]
fn downloads_are_counted_and_cleaned_with_and_without_a_store() {
    let home = Home::new();
    let downloads = || {
        let usage: Value = serde_json::from_str(home.run(&["df", "--json"]).succeeds()).unwrap();
        usage["downloads"].as_u64().unwrap()
    };
    assert_eq!(downloads(), 0);
    assert!(home.run(&["gc"]).succeeds().ends_with("freed: 0 B\n"));
    assert!(!home.path("data").exists());
    let registry = Registry::start(false, false);
    for has_store in [true, false] {
        home.run(&["pull", "--fetch-only", &registry.image()]).succeeds();
        if !has_store {
            fs::remove_dir_all(home.store()).unwrap();
        }
        let before = downloads();
        assert!(before > 1 << 20, "{before}");
        let dry = home.run(&["gc", "--dry-run"]);
        assert!(dry.succeeds().contains("downloads     1.1 MB in 1\n"), "{dry:?}");
        assert_eq!(downloads(), before);
        let done = home.run(&["gc"]);
        assert!(done.succeeds().contains("downloads     1.1 MB in 1\n"), "{done:?}");
        assert_eq!(downloads(), 0);
    }
    // What was cleaned is fetched again.
    home.run(&["pull", "--fetch-only", "--offline", &registry.image()]).fails(1, &["offline"]);
    home.run(&["pull", "--fetch-only", &registry.image()]).succeeds();
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
fn interrupted_pull_is_cleaned_up_by_the_next() {
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
    // The root file system: its metadata, the layer's contents, and their index.
    assert_eq!(files(&home.store().join("blobs/sha256")).len(), 3);
}

#[test]
fn unknown_machine_is_named_and_no_folder_is_created() {
    let home = Home::new();
    let table = home.run(&["ps"]);
    assert_eq!(table.succeeds(), "NAME  SNAPSHOT  UP  PID  PORTS  STATE\n");
    assert_eq!(home.run(&["ps", "--json"]).succeeds(), "[]\n");
    let none = ["no machine \"x\" runs", "supermachine ps"];
    home.run(&["exec", "x", "--", "true"]).fails(125, &none);
    home.run(&["logs", "x"]).fails(1, &none);
    home.run(&["cp", "x:/etc/passwd", "."]).fails(1, &none);
    for command in ["kill", "restart", "pause", "unpause", "wait", "port", "stats", "top"] {
        home.run(&[command, "x"]).fails(1, &none);
    }
    let stopped = home.run(&["stop", "x", "y"]);
    stopped.fails(1, &none);
    assert!(stopped.stderr.contains("no machine \"y\" runs"), "{stopped:?}");
    assert_eq!(files(&home.runtime()), [""; 0]);
}

#[test]
fn arguments_for_background_machines_are_checked_first() {
    let home = Home::new();
    home.run(&["exec", "x"]).fails(125, &["COMMAND"]);
    home.run(&["run", "-p", "x", "x", "--", "true"]).fails(125, &["not GUEST, HOST:GUEST"]);
    home.run(&["run", "-p", "53:53/sctp", "x"]).fails(125, &["only tcp and udp"]);
    home.run(&["run", "-p", "localhost:1:2", "x"]).fails(125, &["use 127.0.0.1"]);
    home.run(&["run", "--name", "y", "x", "--", "true"]).fails(125, &["--detach"]);
    home.run(&["run", "-d", "-i", "x"]).fails(125, &["--detach", "--interactive"]);
    for option in ["--restart=always", "--label=a=b", "--stop-signal=QUIT", "--stop-timeout=1"] {
        home.run(&["run", option, "x"]).fails(125, &["machine in the background", "--detach"]);
    }
    let long = "x".repeat(129);
    for name in ["a/b", "../x", &long] {
        home.run(&["run", "-d", "--name", name, "x"]).fails(125, &["not a machine name", "128"]);
    }
    home.run(&["run", "-d", "--restart", "often", "x"]).fails(125, &["on-failure[:N]"]);
    let both = ["run", "-d", "--restart", "always", "--rm", "x"];
    home.run(&both).fails(125, &["--rm discards what --restart always starts again"]);
    home.run(&["run", "--tmpfs", "/proc/x", "x"]).fails(125, &["kernel shows in /proc"]);
    home.run(&["run", "--ulimit", "files=1", "x"]).fails(125, &["one of core, cpu"]);
    home.run(&["cp", "a", "b"]).fails(1, &["MACHINE:PATH"]);
    home.run(&["supervise", "x", "y"]).fails(1, &["name y is not claimed", "run -d"]);
}

#[test]
fn events_end_at_the_time_that_was_asked_for() {
    let home = Home::new();
    assert_eq!(home.run(&["events", "--since", "1h", "--until", "0s"]).succeeds(), "");
    let dir = home.runtime().join("supermachine");
    let event = |action: &str, time: i64| {
        serde_json::json!({
            "status": action, "id": "web", "from": "redis", "Type": "machine", "Action": action,
            "Actor": { "ID": "web", "Attributes": { "name": "web", "image": "redis" } },
            "scope": "local", "time": time, "timeNano": time * 1_000_000_000,
        })
    };
    let lines = [event("start", 1000), event("die", 2000), event("stop", 3000)];
    let log: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(dir.join("events"), log + "{\"status\":\"torn").unwrap();
    let events = |more: &[&str]| {
        let since = ["events", "--until", "1m", "--json", "--since"];
        let done = home.run(&[&since[..], more].concat());
        let actions = done.succeeds().lines().map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            event["Action"].as_str().unwrap().to_owned()
        });
        actions.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(events(&["0"]), "start die stop");
    assert_eq!(events(&["1970-01-01T00:33:20Z"]), "die stop");
    assert_eq!(events(&["0", "-f", "event=die", "-f", "event=stop"]), "die stop");
    assert_eq!(events(&["0", "-f", "machine=api"]), "");
    let text = home.run(&["events", "--since", "0", "--until", "1500"]);
    let line = "1970-01-01T00:16:40.000000000Z machine start web (image=redis, name=web)\n";
    assert_eq!(text.succeeds(), line);
}

#[test]
fn shared_registry_folder_is_refused_in_both_locations() {
    let home = Home::new();
    let own = fs::metadata(home.path("")).unwrap().uid();
    let temporary = home.path("temporary");
    let fallback = temporary.join(format!("supermachine-{own}"));
    for dir in [home.runtime().join("supermachine"), fallback.clone()] {
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    home.run(&["ps"]).fails(1, &["run/supermachine is not a folder of yours alone"]);
    let mut command = home.command(&["ps"]);
    command.env_remove("XDG_RUNTIME_DIR").env("TMPDIR", &temporary);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&format!("{} is not a folder of yours", fallback.display())), "{said}");
}
