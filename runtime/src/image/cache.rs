//! The user's cache: expanded files that snapshots share, each made once.
//!
//! A file of the cache is named by the identity of what it holds. It is written beside, under
//! its lock, and renamed; its stamp, written last, vouches for it. A file without a stamp that
//! fits is made again. All of it can be removed at any time; machines that run keep what they
//! have mapped.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use supermachine_formats::Digest;

use super::stamp::{TEMPORARY, stamp, temporary_beside, write_atomically};
use crate::Error;

/// What a file of the cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// All of a memory.
    Memory,
    /// Those chunks of a memory that differ from its base's.
    Overlay,
    /// All of a disk.
    Disk,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Overlay => "overlays",
            Self::Disk => "disks",
        }
    }
}

/// The place of a file in the cache.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    path: PathBuf,
}

/// A file that is being made. Nobody else makes it meanwhile.
#[derive(Debug)]
pub(super) struct Making {
    entry: Entry,
    temporary: PathBuf,
    pub(super) file: File,
    done: bool,
    _turn: File,
}

impl Entry {
    pub(super) fn new(cache: &Path, kind: Kind, identity: Digest) -> Self {
        Self { path: cache.join(kind.folder()).join(identity.hex()) }
    }

    /// Opens the file, if it is there and as it was when it was made.
    pub(super) fn existing(&self) -> Option<(File, String)> {
        let recorded = fs::read_to_string(self.beside("stamp")).ok()?;
        let found = self.open_as(&recorded)?;
        Some((found, recorded))
    }

    /// Opens the file, if it has this stamp.
    pub(super) fn open_as(&self, recorded: &str) -> Option<File> {
        let file = File::open(&self.path).ok()?;
        (stamp(&file.metadata().ok()?) == recorded).then_some(file)
    }

    /// Takes the turn to make the file, of `size` bytes, all zeros to begin with; none if
    /// somebody else has just made it.
    pub(super) fn make(&self, size: u64) -> Result<Option<Making>, Error> {
        let io = |operation| self.io(operation);
        let dir = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir).map_err(io("create the folder of"))?;
        let turn = lock(&self.beside("lock"))?;
        if self.existing().is_some() {
            return Ok(None);
        }
        self.remove_strays(dir);
        let temporary = temporary_beside(&self.path).map_err(io("name a temporary file for"))?;
        let file = File::options().read(true).write(true).create_new(true).open(&temporary);
        let file = file.map_err(io("create"))?;
        let making = Making { entry: self.clone(), temporary, file, done: false, _turn: turn };
        making.file.set_len(size).map_err(io("write"))?;
        Ok(Some(making))
    }

    /// Makes `from` the file, unless it is there. It must be on the same file system.
    pub(super) fn adopt(&self, from: &Path) -> Result<(), Error> {
        let io = |operation| self.io(operation);
        let dir = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir).map_err(io("create the folder of"))?;
        let _turn = lock(&self.beside("lock"))?;
        if self.existing().is_some() {
            return Ok(());
        }
        let file = File::open(from).map_err(io("open what becomes"))?;
        file.sync_all().map_err(io("write"))?;
        fs::rename(from, &self.path).map_err(io("name"))?;
        self.vouch(&file)
    }

    fn vouch(&self, file: &File) -> Result<(), Error> {
        let metadata = file.metadata().map_err(self.io("examine"))?;
        write_atomically(&self.beside("stamp"), stamp(&metadata).as_bytes())
    }

    /// Removes what makers of this file that were killed have left. The lock must be held.
    fn remove_strays(&self, dir: &Path) {
        // What cannot be removed takes room, and no more.
        let Ok(entries) = fs::read_dir(dir) else { return };
        let own = self.path.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            if name.starts_with(&own) && name.ends_with(TEMPORARY.as_bytes()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn beside(&self, extension: &str) -> PathBuf {
        self.path.with_extension(extension)
    }

    pub(super) fn io(&self, operation: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::Io { operation, path, source }
    }
}

impl Making {
    /// Gives the finished file its name and its stamp.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        let io = |operation| self.entry.io(operation);
        self.file.sync_all().map_err(io("write"))?;
        fs::rename(&self.temporary, &self.entry.path).map_err(io("name"))?;
        self.done = true;
        self.entry.vouch(&self.file)
    }

    pub(super) fn io(&self, operation: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        self.entry.io(operation)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if !self.done {
            // What is left is only a stray temporary file.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Holds everybody else who takes the same lock off until the result is dropped.
pub(super) fn lock(path: &Path) -> Result<File, Error> {
    let io = |operation| move |source| Error::Io { operation, path: path.to_owned(), source };
    let file = File::create(path).map_err(io("create"))?;
    file.lock().map_err(io("lock"))?;
    Ok(file)
}
