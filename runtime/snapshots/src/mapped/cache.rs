//! The user's cache: expanded files that snapshots share, each made once.
//!
//! A file of the cache is named by the identity of its content. It is written under its lock to a
//! temporary file, and renamed; its stamp is written last. A file without a matching stamp is made
//! again. The cache may be deleted at any time; running machines keep their mappings.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use supermachine_formats::Digest;

use crate::error::Error;
use crate::stamp::{TEMPORARY, stamp, temporary_beside, write_atomically};
use supermachine_vmm::reserve_mapped;

const SWEEP_LOCK: &str = "sweep.lock";

/// The content of a file of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole memory.
    Memory,
    /// The stretches of a memory in which it differs from its base.
    Overlay,
    /// A whole disk.
    Disk,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Memory, Self::Overlay, Self::Disk];

    fn folder(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Overlay => "overlays",
            Self::Disk => "disks",
        }
    }
}

/// The path of a file in the cache.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    path: PathBuf,
}

/// A file in progress, under its lock.
#[derive(Debug)]
pub(super) struct FileInProgress {
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

    /// All files of this kind in the cache, with their sizes on disk in bytes.
    pub(super) fn list(cache: &Path, kind: Kind) -> Vec<(Digest, Self, u64)> {
        let Ok(entries) = fs::read_dir(cache.join(kind.folder())) else { return Vec::new() };
        let mut found = std::collections::BTreeMap::<Digest, u64>::new();
        for entry in entries.flatten() {
            // The file itself, and files that have its name and a suffix.
            let name = entry.file_name().to_string_lossy().into_owned();
            let own = name.split('.').next().and_then(|hex| Digest::from_hex(hex).ok());
            let Some(identity) = own else { continue };
            let taken = entry.metadata().map_or(0, |found| found.blocks().saturating_mul(512));
            let sum = found.entry(identity).or_default();
            *sum = sum.saturating_add(taken);
        }
        let entry = |(identity, taken)| (identity, Self::new(cache, kind, identity), taken);
        found.into_iter().map(entry).collect()
    }

    /// Opens the file, if it exists and is unchanged.
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

    /// Takes the lock to make the file, of `size` zero bytes at first. `None`: another process has
    /// just made it.
    pub(super) fn make(&self, size: u64) -> Result<Option<FileInProgress>, Error> {
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
        let making =
            FileInProgress { entry: self.clone(), temporary, file, done: false, _turn: turn };
        making.file.set_len(size).map_err(io("write"))?;
        // Machines map the file, and cannot continue without a page of it.
        reserve_mapped(&making.file).map_err(io("write"))?;
        Ok(Some(making))
    }

    /// Renames `from` to the file, unless that exists. Both must be on the same file system.
    pub(super) fn adopt(&self, from: &Path) -> Result<(), Error> {
        let io = |operation| self.io(operation);
        let dir = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir).map_err(io("create the folder of"))?;
        let _turn = lock(&self.beside("lock"))?;
        if self.existing().is_some() {
            return Ok(());
        }
        let file = File::options().read(true).write(true).open(from);
        let file = file.map_err(io("open what becomes"))?;
        reserve_mapped(&file).map_err(io("write"))?;
        file.sync_all().map_err(io("write"))?;
        fs::rename(from, &self.path).map_err(io("name"))?;
        self.vouch(&file)
    }

    fn vouch(&self, file: &File) -> Result<(), Error> {
        let metadata = file.metadata().map_err(self.io("examine"))?;
        write_atomically(&self.beside("stamp"), stamp(&metadata).as_bytes())
    }

    /// Removes temporary files of killed makers. The caller holds the lock.
    fn remove_strays(&self, dir: &Path) {
        // A file that cannot be removed only takes space.
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

    /// Removes the file, its stamp, and temporary files of killed makers. The caller excludes
    /// makers. A file that cannot be removed only takes space.
    pub(super) fn remove(&self) {
        // A file without a stamp is unused.
        let _ = fs::remove_file(self.beside("stamp"));
        let _ = fs::remove_file(&self.path);
        self.remove_strays(self.path.parent().unwrap_or(Path::new(".")));
        let _ = fs::remove_file(self.beside("lock"));
    }

    pub(super) fn io(&self, operation: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::Io { operation, path, source }
    }
}

impl FileInProgress {
    /// Renames the finished file, and writes its stamp.
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

impl Drop for FileInProgress {
    fn drop(&mut self) {
        if !self.done {
            // A leftover temporary file is harmless.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Takes an exclusive lock until the result is dropped. Its holder may remove the file and its
/// folder.
pub(super) fn lock(path: &Path) -> Result<File, Error> {
    let io = |operation| move |source| Error::Io { operation, path: path.to_owned(), source };
    loop {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(io("create the folder of"))?;
        }
        let file = match File::create(path) {
            Ok(file) => file,
            // The folder was just removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io("create")(error)),
        };
        file.lock().map_err(io("lock"))?;
        if is_at(&file, path) {
            return Ok(file);
        }
    }
}

/// Prevents sweeps of the cache until the result is dropped.
pub(super) fn hold(cache: &Path) -> Result<File, Error> {
    let file = sweep_lock(cache)?;
    file.lock_shared().map_err(sweep_error("lock", cache))?;
    Ok(file)
}

/// Waits for all makers, and excludes new ones until the result is dropped.
pub(super) fn hold_alone(cache: &Path) -> Result<File, Error> {
    let file = sweep_lock(cache)?;
    file.lock().map_err(sweep_error("lock", cache))?;
    Ok(file)
}

/// The file is never removed.
fn sweep_lock(cache: &Path) -> Result<File, Error> {
    fs::create_dir_all(cache).map_err(sweep_error("create the folder of", cache))?;
    File::create(cache.join(SWEEP_LOCK)).map_err(sweep_error("create", cache))
}

fn sweep_error(operation: &'static str, cache: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = cache.join(SWEEP_LOCK);
    move |source| Error::Io { operation, path, source }
}

/// Whether a path still leads to this file.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(own), Ok(found)) => identity(own) == identity(found),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn lock_removed_with_its_folder_stays_exclusive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("form/lock");
        let first = lock(&path).unwrap();
        let is_locked = || File::open(&path).unwrap().try_lock().is_err();
        assert!(is_locked());
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| lock(&path).map(drop))).collect();
            // At once, as a waiting process may create a file in it.
            fs::rename(path.parent().unwrap(), dir.path().join("gone")).unwrap();
            drop(first);
            waiting.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
        });
        let second = lock(&path).unwrap();
        assert!(is_locked());
        drop(second);
        assert!(!is_locked());
    }
}
