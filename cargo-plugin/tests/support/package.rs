//! A generated package, outside any workspace and without dependencies.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::Done;

const MANIFEST: &str = r#"
[package]
name = "app"
version = "1.2.3"
edition = "2024"

[profile.small]
inherits = "release"

[workspace]
"#;
const MAIN: &str = r#"fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    println!("app {}", arguments.join(" "));
    std::process::exit(arguments.len() as i32);
}

#[test]
fn one_test() {
    println!("tested");
}
"#;

/// The package's folder, deleted on drop.
pub(crate) struct Package {
    dir: TempDir,
}

impl Package {
    pub(crate) fn new() -> Self {
        let package =
            Self { dir: tempfile::Builder::new().prefix("a package ").tempdir().unwrap() };
        package.write("Cargo.toml", MANIFEST);
        package.write("src/main.rs", MAIN);
        package
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Adds lines to the manifest.
    pub(crate) fn declare(&self, lines: &str) {
        let manifest = fs::read_to_string(self.path("Cargo.toml")).unwrap();
        self.write("Cargo.toml", manifest + lines);
    }

    /// Adds a dependency on a library whose build script makes packs too.
    pub(crate) fn add_library(&self, packs: &[(&str, &str)]) -> Self {
        let library = Self::new();
        let manifest = "[package]\nname = \"library\"\nversion = \"0.1.0\"\n[workspace]\n";
        library.write("Cargo.toml", manifest);
        library.write("src/lib.rs", "");
        library.make_packs(packs);
        let path = library.path("");
        self.declare(&format!("\n[dependencies]\nlibrary = {{ path = {path:?} }}\n"));
        library
    }

    /// A build script that sets the variables of `supermachine_baker::build_script`.
    pub(crate) fn make_packs(&self, packs: &[(&str, &str)]) {
        let mut script = "fn main() { let out = std::env::var(\"OUT_DIR\").unwrap();\n".to_owned();
        for (name, content) in packs {
            script += &format!(
                "let path = format!(\"{{out}}/{name}.tar\"); std::fs::write(&path, {content:?}).unwrap();\n\
                 println!(\"cargo::rustc-env=SUPERMACHINE_SNAPSHOT_{name}={{path}}\");\n"
            );
        }
        self.write("build.rs", script + "}");
    }

    /// An executable script. Another process writes it: if this process had it open for writing, a child
    /// of a parallel test could inherit the descriptor, and the script could not be executed.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let mut write = Command::new("sh");
        write.args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod +x \"$0\""]);
        assert!(write.arg(&path).arg(text).status().unwrap().success());
        path
    }

    /// `cargo supermachine` in the package, as cargo starts it, without the environment of the cargo that
    /// runs the tests.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cargo-supermachine"));
        command.arg("supermachine").args(arguments).current_dir(self.dir.path());
        for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "SUPERMACHINE_STORE"] {
            command.env_remove(name);
        }
        command.env("XDG_CACHE_HOME", self.path("cache")).env("XDG_DATA_HOME", self.path("data"));
        command.env("CARGO_NET_OFFLINE", "true").stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        Done::of(&self.command(arguments).output().unwrap())
    }

    /// The target triple of this host.
    pub(crate) fn host() -> String {
        let output = Command::new("rustc").arg("-vV").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
    }

    /// Replaces the linker: every build produces a copy of this file.
    pub(crate) fn link_to(&self, program: &Path) {
        let linker = self.script(
            "linker",
            "while [ \"$1\" != -o ]; do shift; done; cp \"$(dirname \"$0\")/program\" \"$2\"",
        );
        fs::copy(program, self.path("program")).unwrap();
        let config = format!("[target.{}]\nlinker = {:?}\n", Self::host(), linker);
        self.write(".cargo/config.toml", config);
    }
}
