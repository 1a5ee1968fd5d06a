//! Packages outside the workspace that bake in build scripts, and their programs, run alone.
//!
//! `cargo xtask test` compiles the packages' dependencies beforehand, and sets how cargo compiles. Here
//! cargo runs the build scripts, which bake, and compiles the packages themselves.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use supermachine_baker::manifest::Metadata;
use supermachine_test_support::machines::{folder, reference};

/// Names the folder where the packages' dependencies were compiled.
const TARGET: &str = "SUPERMACHINE_TEST_APPS";
/// The profile that they were compiled with, which the environment defines.
const PROFILE: &str = "fast";

fn target() -> PathBuf {
    let target = std::env::var_os(TARGET).map(PathBuf::from);
    target.unwrap_or_else(|| panic!("{TARGET} is not set: run these tests with cargo xtask test"))
}

/// A program that was built.
fn built(name: &str) -> PathBuf {
    target().join(PROFILE).join(name)
}

fn root() -> PathBuf {
    let baker = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let baker = baker.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    baker.parent().unwrap().to_owned()
}

/// A folder with guest kernel and agent, since the packages' builds have another cache.
fn assets() -> &'static Path {
    static ASSETS: OnceLock<PathBuf> = OnceLock::new();
    ASSETS.get_or_init(|| {
        let assets = folder().join("assets");
        fs::create_dir_all(&assets).unwrap();
        supermachine_kernel::extract_kernel_to(assets.join("vmlinux")).unwrap();
        supermachine_kernel::extract_init_oci_to(assets.join("init")).unwrap();
        assets
    })
}

/// A command with the environment of a developer who builds.
fn builds(program: impl AsRef<std::ffi::OsStr>, dir: &Path) -> Command {
    // Cargo uses only downloaded packages, without a network.
    fs::create_dir_all(folder().join(".cargo")).unwrap();
    fs::write(folder().join(".cargo/config.toml"), "[net]\noffline = true\n").unwrap();
    // The compiler is the one that compiled the dependencies.
    let toolchain = "rust-toolchain.toml";
    fs::copy(root().join(toolchain), folder().join(toolchain)).unwrap();
    let mut command = Command::new(program);
    command.current_dir(dir).stdin(Stdio::null());
    command.env("SUPERMACHINE_ASSETS", assets()).env("XDG_CACHE_HOME", folder().join("cache"));
    // Cargo set these variables for this test; the inner cargo must not see them. The compiled
    // dependencies are in the packages' own folders.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_from_cargo = text.starts_with("CARGO_PKG") || text.starts_with("CARGO_MANIFEST");
        if is_from_cargo || text.ends_with("TARGET_DIR") {
            command.env_remove(&name);
        }
    }
    command
}

fn cargo(dir: &Path, arguments: &[&str]) -> Command {
    let mut cargo = builds(std::env::var_os("CARGO").unwrap_or("cargo".into()), dir);
    cargo.args(arguments);
    cargo
}

/// Runs a command that must succeed, and returns its standard output and error.
fn run(command: &mut Command) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (stdout, stderr) = (text(stdout), text(stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

/// A program alone, with an empty home.
fn alone(program: &Path) -> Command {
    let home = tempfile::tempdir_in(folder()).unwrap().keep();
    let mut command = Command::new(program);
    command.env_clear().env("HOME", &home).current_dir(&home).stdin(Stdio::null());
    command
}

/// A copy of one of the examples, with the test registry's image.
fn example(name: &str) -> PathBuf {
    let dir = folder().join(name);
    copy(&root().join("examples").join(name), &dir);
    prepare(&dir);
    dir
}

/// Lets a package use the compiled dependencies.
fn prepare(dir: &Path) {
    fs::copy(root().join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
    std::os::unix::fs::symlink(target(), dir.join("target")).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&path, &to);
        } else if let Ok(text) = fs::read_to_string(&path) {
            fs::write(to, here(&text)).unwrap();
        }
    }
}

/// Replaces the paths, the image and the profile with this test's.
fn here(text: &str) -> String {
    let root = root().display().to_string();
    let image = format!("{:?}", reference("busybox"));
    text.replace("\"busybox\"", &image)
        .replace("--release", &format!("--profile {PROFILE}"))
        .replace("target/release/", &format!("target/{PROFILE}/"))
        .replace("\"../../", &format!("\"{root}/"))
        .replace("\"../supermachine/", &format!("\"{root}/"))
}

/// The fenced blocks of a document: each with its info string and its text.
fn blocks(document: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in document.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(info), None) => open = Some((info.to_owned(), String::new())),
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some((info, text))) => open = Some((info, format!("{text}{line}\n"))),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The guide as a script: it runs the commands and writes the files, in order.
fn script(document: &str, base: &Path) -> String {
    let (base, lock) = (base.display(), root().join("Cargo.lock"));
    let mut script = format!("set -eu\ncd {base}\n");
    for (info, text) in blocks(document) {
        let mut words = info.split(' ');
        match (words.next(), words.next()) {
            (Some("sh"), None) => script.push_str(&here(&text)),
            (Some("toml"), None) => {
                // The declaration parses, without unknown keys.
                let metadata = Metadata::parse(Path::new("Cargo.toml"), &text).unwrap();
                assert!(!metadata.snapshots.is_empty());
            }
            (Some(_), Some(file)) => {
                let how = if file.ends_with("Cargo.toml") { ">>" } else { ">" };
                script.push_str(&format!("cat {how} {base}/{file} <<'END'\n{}END\n", here(&text)));
            }
            _ => panic!("a block that is neither a script nor a file: {info:?}"),
        }
        if text.contains("cargo new") {
            let (lock, target) = (lock.display(), target());
            let target = target.display();
            script.push_str(&format!("cp {lock} hello/Cargo.lock; ln -s {target} hello/target\n"));
        }
    }
    script
}

#[test]
fn guide_turns_a_new_package_into_a_standalone_program() {
    let base = tempfile::tempdir_in(folder()).unwrap();
    let document = fs::read_to_string(root().join("docs/embedding.md")).unwrap();
    let script = script(&document, base.path());
    let (stdout, stderr) = run(builds("sh", base.path()).args(["-c", &script]));
    // Once run by cargo, and once as shipped.
    assert_eq!(stdout, "hello from Linux\nhello from Linux\n", "{stderr}");
    let baked = |stderr: &str| stderr.matches(": baked in ").count();
    assert_eq!(baked(&stderr), 1, "{stderr}");
    assert!(stderr.contains("shell: baked in ") && stderr.contains(" MiB"), "{stderr}");
    let dir = base.path().join("hello");
    let pins = fs::read_to_string(dir.join("supermachine.lock")).unwrap();
    assert!(pins.contains(&reference("busybox")), "{pins}");

    let program = base.path().join("alone");
    fs::copy(base.path().join("dist/hello"), &program).unwrap();
    assert_eq!(run(&mut alone(&program)).0, "hello from Linux\n");

    // Without a change, cargo does nothing.
    let build = ["build", "--profile", PROFILE];
    let (_, stderr) = run(&mut cargo(&dir, &build));
    assert!(stderr.contains("Finished") && !stderr.contains("Compiling"), "{stderr}");

    // Another value is another bake.
    let build_script = dir.join("build.rs");
    let text = fs::read_to_string(&build_script).unwrap();
    fs::write(&build_script, text.replace("\"hello\"", "\"goodbye\"")).unwrap();
    let (stdout, stderr) = run(&mut cargo(&dir, &["run", "--profile", PROFILE]));
    assert_eq!((stdout.as_str(), baked(&stderr)), ("goodbye from Linux\n", 1), "{stderr}");

    // Bakes survive `cargo clean`.
    run(&mut cargo(&dir, &["clean", "--profile", PROFILE, "--package", "hello"]));
    let (stdout, stderr) = run(&mut cargo(&dir, &["run", "--profile", PROFILE]));
    assert_eq!(stdout, "goodbye from Linux\n");
    assert!(stderr.contains("Compiling hello") && baked(&stderr) == 0, "{stderr}");
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn unbaked_name_does_not_compile_and_names_the_remedy() {
    let dir = example("embedded-eval");
    let main = dir.join("src/main.rs");
    let text = fs::read_to_string(&main).unwrap();
    fs::write(&main, text.replace("include_snapshot!(\"shell\")", "include_snapshot!(\"none\")"))
        .unwrap();
    let mut check = cargo(&dir, &["build", "--profile", PROFILE]);
    let output = check.env("SUPERMACHINE_NO_BAKE", "1").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(stderr.contains("bakes no snapshot") && stderr.contains("build_script"), "{stderr}");

    // The unchanged example compiles without a bake, and reports the missing snapshot when it runs.
    fs::write(&main, text).unwrap();
    run(cargo(&dir, &["build", "--profile", PROFILE]).env("SUPERMACHINE_NO_BAKE", "1"));
    let output = alone(&built("embedded-eval")).arg("true").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("Placeholder"), "{stderr}");

    run(&mut cargo(&dir, &["build", "--profile", PROFILE]));
    let program = folder().join("eval");
    fs::copy(built("embedded-eval"), &program).unwrap();
    let scripts = ["echo $GREETING > /tmp/x; cat /tmp/x", "cat /tmp/x || echo gone; exit 3"];
    let (stdout, _) = run(alone(&program).args(scripts));
    assert_eq!(stdout, "hello\n[exit code 0]\ngone\n[exit code 3]\n");
}

#[test]
fn program_finds_its_snapshot_in_the_resources_of_a_bundle() {
    let dir = example("bundle-app");
    let build = ["build", "--profile", PROFILE, "--message-format", "json-render-diagnostics"];
    let (messages, _) = run(&mut cargo(&dir, &build));
    let pack = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let pairs = message.get("env")?.as_array()?.clone();
        let is_wanted = |pair: &serde_json::Value| pair[0] == "SUPERMACHINE_SNAPSHOT_tools";
        pairs.iter().find(|pair| is_wanted(pair))?[1].as_str().map(PathBuf::from)
    });
    let pack = pack.unwrap_or_else(|| panic!("no snapshot in {messages}"));
    let contents = folder().join("Report.app/Contents");
    for part in ["MacOS", "Resources"] {
        fs::create_dir_all(contents.join(part)).unwrap();
    }
    let program = contents.join("MacOS/bundle-app");
    fs::copy(built("bundle-app"), &program).unwrap();
    fs::copy(&pack, contents.join("Resources/tools.tar")).unwrap();
    // The program must not find the pack of the build.
    fs::remove_file(&pack).unwrap();
    let (stdout, stderr) = run(&mut alone(&program));
    assert_eq!(stdout, "hello from a machine with 1 processor\n");
    assert!(stderr.contains("Report.app/Contents/Resources/tools.tar"), "{stderr}");
}

#[test]
fn service_answers_at_a_port_of_the_host_until_its_input_closes() {
    let dir = example("service");
    run(&mut cargo(&dir, &["build", "--profile", PROFILE]));
    let program = folder().join("web");
    fs::copy(built("service"), &program).unwrap();
    let mut child = alone(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap().strip_suffix("/passwd").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /passwd HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.contains(" 200 OK\r\n") && page.contains("root:"), "{page}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}
