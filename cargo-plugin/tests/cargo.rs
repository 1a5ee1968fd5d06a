//! `cargo supermachine build`, `run`, `test` and `check` on a generated package.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/package.rs"]
mod package;
mod support;

use package::Package;
use serde_json::Value;
use support::{Done, files};

#[test]
fn build_passes_messages_and_status_through() {
    let package = Package::new();
    let done = package.run(&["build", "--release"]);
    assert_eq!(done.succeeds(), "");
    assert!(done.stderr.contains("Compiling app v1.2.3"), "{done:?}");
    assert!(package.path("target/release/app").is_file());
    assert!(!package.path("target/debug").exists());
    assert_eq!(package.run(&["build", "-q", "--release"]).stderr, "");

    package.write("src/main.rs", "fn main() { let unused = 1; }");
    let done = package.run(&["build"]);
    assert_eq!(done.succeeds(), "");
    assert!(done.stderr.contains("unused variable: `unused`\n --> src/main.rs"), "{done:?}");
    package.write("src/main.rs", "fn main() { let unused = 1;  }");
    let short = package.run(&["build", "--message-format", "short"]);
    assert_eq!(short.succeeds(), "");
    assert!(short.stderr.contains("src/main.rs:1:17: warning: unused variable"), "{short:?}");

    package.write("src/main.rs", "fn main() { nonsense }");
    let done = package.run(&["build"]);
    assert_eq!((done.status, &*done.stdout), (101, ""), "{done:?}");
    assert!(done.stderr.contains("cannot find value `nonsense`"), "{done:?}");
    package.run(&["build", "--nosuch"]).fails(1, &["unexpected argument '--nosuch'"]);
}

#[test]
fn build_prints_json_messages_on_request() {
    let package = Package::new();
    let done = package.run(&["build", "--message-format=json"]);
    let messages: Vec<Value> =
        done.succeeds().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(messages.last().unwrap()["reason"], "build-finished");
    let program = messages.iter().find_map(|message| message["executable"].as_str()).unwrap();
    assert_eq!(program, package.path("target/debug/app").to_str().unwrap());
}

#[test]
fn run_passes_arguments_and_status_through() {
    let package = Package::new();
    package.write("examples/other.rs", "fn main() { println!(\"other\"); }");
    package.write("src/bin/second.rs", "fn main() { println!(\"second\"); }");
    let done = package.run(&["run", "-q", "--bin", "app", "--", "-q", "--help"]);
    assert_eq!((done.status, &*done.stdout), (2, "app -q --help\n"), "{done:?}");
    let done = package.run(&["run", "--bin", "app", "a", "--", "b"]);
    assert_eq!((done.status, &*done.stdout), (3, "app a -- b\n"), "{done:?}");
    assert_eq!(package.run(&["run", "--example", "other"]).succeeds(), "other\n");
    let other = ["run", "--bin", "second", "--profile", "small", "--target-dir", "elsewhere"];
    assert_eq!(package.run(&other).succeeds(), "second\n");
    assert!(package.path("elsewhere/small/second").is_file());
    let target = ["run", "--bin=second", "--target", &Package::host()];
    assert_eq!(package.run(&target).succeeds(), "second\n");
    assert!(package.path("target").join(Package::host()).join("debug/second").is_file());
    package.run(&["run", "--bin", "nosuch"]).fails(101, &["no bin target named `nosuch`"]);
}

#[test]
fn configured_runner_is_kept() {
    let package = Package::new();
    let runner = package.script("the runner", "echo \"$1 runs ${2##*/}\"; shift; exec \"$@\"");
    let host = Package::host();
    let config = format!("[target.{host}]\nrunner = [{runner:?}, \"it is me\"]\n");
    package.write(".cargo/config.toml", config);
    let done = package.run(&["run", "-q", "--", "x"]);
    assert_eq!((done.status, &*done.stdout), (1, "it is me runs app\napp x\n"), "{done:?}");
    // In cargo, a variable overrides a file.
    let variable = format!("CARGO_TARGET_{}_RUNNER", host.replace('-', "_").to_uppercase());
    let mut command = package.command(&["run", "-q"]);
    let done = Done::of(&command.env(&variable, "env A=1 echo").output().unwrap());
    assert!(done.succeeds().ends_with("target/debug/app\n"), "{done:?}");
    // A setting for this target overrides a `cfg` setting.
    let config = format!("[target.'cfg(unix)']\nrunner = [{runner:?}, \"for some\"]\n");
    package.write(".cargo/config.toml", config);
    let done = package.run(&["run", "-q"]);
    assert_eq!(done.succeeds(), "for some runs app\napp \n", "{done:?}");
    for runner in ["\"echo\"", "[\"echo\"]"] {
        let setting = format!("target.{host}.runner={runner}");
        let done = package.run(&["run", "-q", "--config", &setting]);
        assert!(
            done.stderr.contains("warning: the runner from --config replaces ours"),
            "{done:?}"
        );
        assert_eq!(done.succeeds(), "target/debug/app\n", "{done:?}");
    }
}

#[test]
fn test_passes_arguments_behind_the_dashes() {
    let package = Package::new();
    package.write("tests/fails.rs", "#[test] fn failing() { panic!(\"as it must\"); }");
    let done = package.run(&["test", "--bin", "app", "--", "--nocapture"]);
    assert!(done.succeeds().contains("tested\n"), "{done:?}");
    let done = package.run(&["test", "--bin", "app"]);
    assert!(!done.succeeds().contains("tested\n"), "{done:?}");
    let done = package.run(&["test", "--test", "fails"]);
    assert_eq!(done.status, 101, "{done:?}");
    assert!(done.stdout.contains("as it must"), "{done:?}");
}

#[test]
fn programs_find_the_snapshots_of_their_build_script_beside_them() {
    let package = Package::new();
    package.make_packs(&[("python", "a pack"), ("left-out", "")]);
    let show = "fn main() { show(); }\n#[test] fn test() { show(); }\nfn show() {
        let program = std::env::current_exe().unwrap();
        let dir = program.parent().unwrap().join(\"snapshots\");
        let names = std::fs::read_dir(&dir).unwrap().map(|one| one.unwrap().file_name());
        println!(\"{:?} {}\", names.collect::<Vec<_>>(),
            std::fs::read_to_string(dir.join(\"python.tar\")).unwrap());
    }";
    package.write("src/main.rs", show);
    package.write("examples/other.rs", show);
    let expected = "[\"python.tar\"] a pack\n";
    assert_eq!(package.run(&["run", "-q", "--bin", "app"]).succeeds(), expected);
    assert_eq!(package.run(&["run", "-q", "--example", "other"]).succeeds(), expected);
    let tested = package.run(&["test", "-q", "--bin", "app", "--", "--nocapture"]);
    assert!(tested.succeeds().contains(expected), "{tested:?}");
    package.run(&["build", "--release"]).succeeds();
    let built = std::process::Command::new(package.path("target/release/app")).output().unwrap();
    assert_eq!(String::from_utf8(built.stdout).unwrap(), expected);
}

#[test]
fn conflicting_snapshots_are_linked_beside_no_program() {
    let package = Package::new();
    package.write("src/main.rs", "fn main() {}");
    package.make_packs(&[("python", "pack one"), ("redis", "pack two")]);
    package.run(&["build"]).succeeds();
    let beside = package.path("target/debug/snapshots");
    assert_eq!(files(&beside), ["python.tar", "redis.tar"]);
    let _library = package.add_library(&[("python", "pack three")]);
    let done = package.run(&["build"]);
    done.succeeds();
    assert!(done.stderr.contains("warning: two packages make a snapshot \"python\""), "{done:?}");
    assert_eq!(files(&beside), ["redis.tar"]);
}

#[test]
fn check_builds_no_program() {
    let package = Package::new();
    let done = package.run(&["check"]);
    assert_eq!(done.succeeds(), "");
    assert!(done.stderr.contains("Checking app"), "{done:?}");
    assert!(!files(&package.path("target/debug")).contains(&"app".to_owned()));
    package.write("src/main.rs", "fn main() { 1 }");
    let done = package.run(&["check"]);
    assert_eq!((done.status, &*done.stdout), (101, ""), "{done:?}");
    assert!(done.stderr.contains("mismatched types"), "{done:?}");
}

#[test]
fn missing_cargo_is_named() {
    let package = Package::new();
    for command in ["build", "check"] {
        let mut command = package.command(&[command]);
        let done = Done::of(&command.env("CARGO", "/no/cargo").output().unwrap());
        done.fails(1, &["cannot start /no/cargo", "No such file"]);
    }
    package.write(".cargo/config.toml", "[");
    package.run(&["run"]).fails(1, &["cannot read cargo's configuration"]);
}

#[test]
fn runner_becomes_the_program() {
    let package = Package::new();
    let done = package.run(&["runner", "--", "sh", "-c", "kill -TERM $$"]);
    assert_eq!(done.status, -15, "{done:?}");
    package.run(&["runner", "--", "/no/program"]).fails(1, &["cannot start /no/program"]);
    let help = package.run(&["--help"]);
    assert!(!help.succeeds().contains("runner"), "{help:?}");
    for command in ["bake", "build", "bundle", "run", "test", "check", "update", "ls", "codesign"] {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}: {help:?}");
        let shown = package.run(&[command, "--help"]);
        assert!(
            shown.succeeds().contains(&format!("Usage: cargo supermachine {command}")),
            "{shown:?}"
        );
    }
}
