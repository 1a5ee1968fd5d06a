//! Runs the commands as a user does, with private folders.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use supermachine_baker::Store;
use supermachine_formats::Digest;
use supermachine_snapshots::pack::Descriptor;
use tempfile::TempDir;

/// Private folders for the commands, deleted on drop.
pub(crate) struct Home {
    dir: TempDir,
}

/// The exit status and the output of a command.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    /// Guest kernel and agent are empty files: they are found, but cannot run.
    pub(crate) fn new() -> Self {
        let home = Self::empty();
        for name in ["vmlinux", "init"] {
            fs::write(home.path("assets").join(name), "").unwrap();
        }
        home
    }

    /// With the real kernel and agent.
    pub(crate) fn with_assets() -> Self {
        let home = Self::empty();
        let assets = supermachine_kernel::Assets::locate().unwrap();
        for (from, name) in [(assets.kernel_path(), "vmlinux"), (assets.agent_path(), "init")] {
            std::os::unix::fs::symlink(from, home.path("assets").join(name)).unwrap();
        }
        home
    }

    fn empty() -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["assets", "run"] {
            fs::create_dir(home.path(name)).unwrap();
        }
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("data/supermachine")
    }

    /// The folder of running machines.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.path("run")
    }

    /// Points a program at these folders.
    pub(crate) fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env_remove("SUPERMACHINE_STORE").env("HOME", self.dir.path());
        command.env("XDG_DATA_HOME", self.path("data")).env("XDG_CACHE_HOME", self.path("cache"));
        command.env("XDG_RUNTIME_DIR", self.runtime());
        command.env("SUPERMACHINE_ASSETS", self.path("assets")).stdin(Stdio::null())
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_supermachine"));
        self.prepare(&mut command).args(arguments);
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Done {
        Done::of(&self.command(arguments).output().unwrap())
    }

    /// Runs a shell script, with the command as `$0`.
    pub(crate) fn sh(&self, script: &str) -> Done {
        let mut command = Command::new("bash");
        self.prepare(&mut command);
        command.args(["-c", script, env!("CARGO_BIN_EXE_supermachine")]);
        Done::of(&command.output().unwrap())
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Done {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Done::of(&child.wait_with_output().unwrap())
    }

    /// Opens the store, or creates it.
    pub(crate) fn open_store(&self) -> Store {
        Store::open_with_cache(self.store(), self.path("cache/supermachine")).unwrap()
    }

    /// Adds a name without a snapshot to the store.
    pub(crate) fn add_name(&self, name: &str) {
        let manifest = Descriptor { digest: Digest::of(b"absent"), size: 6 };
        self.open_store().layout().set_name(name, manifest).unwrap();
    }

    pub(crate) fn names(&self) -> Vec<String> {
        if !self.store().exists() {
            return Vec::new();
        }
        self.open_store().names().unwrap()
    }
}

impl Done {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let signal = output.status.signal().map(|signal| -signal);
        Self {
            status: output.status.code().or(signal).unwrap(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Asserts the exit status, and that the error is on standard error only.
    #[track_caller]
    pub(crate) fn fails(&self, status: i32, said: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        for part in said {
            assert!(self.stderr.contains(part), "{part:?} is missing: {self:?}");
        }
        assert!(!self.stderr.contains(" { "), "debug output: {self:?}");
    }

    #[track_caller]
    pub(crate) fn succeeds(&self) -> &str {
        assert_eq!(self.status, 0, "{self:?}");
        &self.stdout
    }
}

/// The sorted names of a folder's entries. Empty for a missing folder.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(Result::unwrap);
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Sends SIGINT. Returns the signal that killed the process.
pub(crate) fn interrupt(child: &mut Child) -> Option<i32> {
    let script = format!("kill -INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    child.wait().unwrap().signal()
}

/// Makes the files of a folder old enough to be stale.
pub(crate) fn age(dir: &Path) {
    let old = SystemTime::now() - Duration::from_secs(3600);
    for name in files(dir) {
        let file = fs::File::options().append(true).open(dir.join(name)).unwrap();
        file.set_modified(old).unwrap();
    }
}
