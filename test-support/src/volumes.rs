//! A volume for a test, and the check that its file system is clean.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use supermachine::{Vm, VmConfig, Volume};

use crate::machines::{busybox, folder};

const MIB: u64 = 1 << 20;

/// A volume in a folder of its own.
#[derive(Debug)]
pub struct Home(tempfile::TempDir);

impl Home {
    /// A volume that is not made yet.
    #[must_use]
    pub fn empty() -> Self {
        Self(tempfile::tempdir_in(folder()).unwrap())
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.0.path().join("volume.ext4")
    }

    /// It, with 256 MiB.
    #[must_use]
    pub fn volume(&self) -> Volume {
        Volume::at(self.path()).with_size(256 * MIB)
    }

    /// A machine's configuration with it at `target`.
    #[must_use]
    pub fn config_at(&self, target: &str) -> VmConfig {
        VmConfig::new().with_volume(self.volume(), target)
    }

    /// A machine's configuration with it at `/data`.
    #[must_use]
    pub fn config(&self) -> VmConfig {
        self.config_at("/data")
    }

    /// A machine that has it.
    #[must_use]
    pub fn start(&self) -> Vm {
        busybox().start(&self.config()).unwrap()
    }

    /// Bytes that it takes on the host.
    #[must_use]
    pub fn used(&self) -> u64 {
        fs::metadata(self.path()).unwrap().blocks() * 512
    }

    /// Replays the journal of a copy, as the next machine does, and checks all of it.
    pub fn assert_clean(&self) {
        let copy = self.0.path().join("copy");
        let copied = Command::new("cp").arg("--sparse=always").arg(self.path()).arg(&copy).status();
        assert!(copied.unwrap().success());
        let replayed = e2fsck("-fp", &copy);
        assert!(replayed.0 <= 1, "{}", replayed.1);
        let (status, text) = e2fsck("-fn", &copy);
        assert_eq!(status, 0, "{text}");
        fs::remove_file(copy).unwrap();
    }
}

fn e2fsck(how: &str, image: &Path) -> (i32, String) {
    let output = Command::new("/sbin/e2fsck").arg(how).arg(image).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}
