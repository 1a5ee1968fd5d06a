//! Small disks that fill up, for tests without root: a tmpfs in a mount namespace of the test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the disk to the test that runs again within the namespace.
const WITHIN: &str = "SUPERMACHINE_TEST_SMALL_DISK";

/// A small disk.
#[derive(Debug)]
pub struct SmallDisk {
    dir: PathBuf,
}

/// Calls `body` with an empty disk of `size` bytes. For that, the test with the path `test` runs again, alone
/// and in a process of its own, and calls this function again there.
///
/// # Panics
/// `body` fails, or this host does not let its users make namespaces.
pub fn with_small_disk(size: u64, test: &str, body: impl FnOnce(&SmallDisk)) {
    if let Some(dir) = std::env::var_os(WITHIN) {
        let disk = SmallDisk { dir: dir.into() };
        disk.resize(size);
        return body(&disk);
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=64k none \"$0\" && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--include-ignored", "--nocapture", test])
        .env(WITHIN, dir.path())
        .output()
        .expect("`unshare` of util-linux runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "on a small disk: {stdout}{stderr}");
    assert!(stdout.contains("1 passed"), "no test is called {test}: {stdout}");
}

impl SmallDisk {
    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes it larger or smaller, as far as its files allow.
    ///
    /// # Panics
    /// The kernel refuses that.
    pub fn resize(&self, size: u64) {
        let options = format!("remount,size={size}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.dir).status().unwrap();
        assert!(status.success(), "no disk of {size} bytes");
    }

    /// All files on it, sorted, without its folders.
    ///
    /// # Panics
    /// A folder cannot be read.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let (mut found, mut folders) = (Vec::new(), vec![self.dir.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    }
}
