//! Garbage collection: marks what is reachable and removes the rest.
//!
//! Bakes, imports and pulls hold unnamed blobs, and a sweep waits for them. An interrupted sweep loses
//! nothing that a name references: it removes keys before their results, and mapped forms before the
//! snapshots that lead to them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use supermachine_formats::Digest;
use supermachine_snapshots::mapped::{CacheUse, sweep_cache};

use super::handle::Store;
use super::marks::Marks;
use crate::error::{BakeError, StoreError};
use crate::oci::BlobStore;

/// The age at which an unlocked temporary file is a leftover. Writers of names hold no blobs, and
/// lock their files right after creating them.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);

/// Options of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepOptions {
    /// Whether to remove bases, which the next bake must then boot again.
    pub all: bool,
    /// Whether to report only, and remove nothing.
    pub dry_run: bool,
    /// Whether to wait for other processes that write to the store.
    pub wait: bool,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self { all: false, dry_run: false, wait: true }
    }
}

/// A count of items and their size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ItemTotal {
    /// The number of items.
    pub count: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// What a sweep removed, or would remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// Unreachable blobs.
    pub blobs: ItemTotal,
    /// Files and folders in the cache that no snapshot of the store uses.
    pub mapped: ItemTotal,
    /// Downloaded layers. Bakes that need them fetch them again.
    pub downloads: ItemTotal,
    /// Temporary files of killed processes.
    pub leftovers: ItemTotal,
    /// Keys without a result.
    pub keys: u64,
    /// Unused lock files.
    pub locks: u64,
}

impl Store {
    /// Removes what is not reachable from a name. Calls `waiting` before it waits for another process.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if it would have to wait and may not. [`StoreError::Unreadable`] if a named
    /// snapshot cannot be read, as its blobs are then unknown. A file cannot be removed.
    pub fn sweep(&self, options: SweepOptions, waiting: impl FnOnce()) -> Result<Swept, BakeError> {
        let layout = self.layout();
        let _hold = if options.dry_run {
            layout.hold()?
        } else if let Some(hold) = layout.try_hold_alone()? {
            hold
        } else if options.wait {
            waiting();
            layout.hold_alone()?
        } else {
            return Err(BakeError::Store(StoreError::Busy { store: self.dir().to_owned() }));
        };
        let marks = Marks::of(self, options.all)?;
        let unneeded = self.unneeded(&marks)?;
        let mut swept = Swept { keys: marks.dead_keys.len() as u64, ..Swept::default() };
        swept.blobs = unneeded.iter().fold(ItemTotal::default(), |sum, (_, bytes)| sum.and(*bytes));
        let remove = |path: &Path| match options.dry_run {
            true => Ok(()),
            false => remove(path),
        };
        marks.dead_keys.iter().try_for_each(|path| remove(path))?;
        let CacheUse { count, bytes, .. } =
            sweep_cache(self.cache(), &marks.cache, options.dry_run)
                .map_err(|error| BakeError::Store(StoreError::Cache { source: error.into() }))?;
        swept.mapped = ItemTotal { count, bytes };
        unneeded.iter().try_for_each(|(path, _)| remove(path))?;
        swept.downloads = self.sweep_downloads(options.dry_run)?;
        for (path, bytes) in self.leftovers()? {
            remove(&path)?;
            swept.leftovers = swept.leftovers.and(bytes);
        }
        for path in self.free_locks()? {
            remove(&path)?;
            swept.locks += 1;
        }
        Ok(swept)
    }

    /// Removes downloaded layers, unless a fetch is using them.
    fn sweep_downloads(&self, is_dry_run: bool) -> Result<ItemTotal, BakeError> {
        let downloads = BlobStore::open(self.cache().join("downloads"))?;
        let layers = if is_dry_run { downloads.layers() } else { downloads.sweep_layers() };
        Ok(layers?.iter().fold(ItemTotal::default(), |sum, (_, bytes)| sum.and(*bytes)))
    }

    /// The unmarked blobs, and their sizes.
    pub(super) fn unneeded(&self, marks: &Marks) -> Result<Vec<(PathBuf, u64)>, BakeError> {
        let all = self.blobs()?.into_iter();
        let unmarked = all.filter(|(digest, ..)| digest.is_none_or(|digest| !marks.has(digest)));
        Ok(unmarked.map(|(_, path, bytes)| (path, bytes)).collect())
    }

    /// All blob files, sorted by name.
    pub(super) fn blobs(&self) -> Result<Vec<(Option<Digest>, PathBuf, u64)>, BakeError> {
        let mut found = Vec::new();
        for (path, bytes) in files(&self.dir().join("blobs/sha256"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            found.push((Digest::from_hex(&name).ok(), path, bytes));
        }
        found.sort();
        Ok(found)
    }

    /// Abandoned temporary files.
    fn leftovers(&self) -> Result<Vec<(PathBuf, u64)>, BakeError> {
        let mut found = files(&self.dir().join("tmp"))?;
        found.retain(|(path, _)| is_abandoned(path));
        Ok(found)
    }

    /// Lock files of keys. Their users hold blobs, so none is in use during a sweep.
    fn free_locks(&self) -> Result<Vec<PathBuf>, BakeError> {
        let mut found = files(&self.dir().join("locks"))?;
        found.retain(|(path, _)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Digest::from_hex(&name).is_ok() && is_unlocked(path)
        });
        Ok(found.into_iter().map(|(path, _)| path).collect())
    }
}

impl ItemTotal {
    fn and(self, bytes: u64) -> Self {
        Self { count: self.count + 1, bytes: self.bytes.saturating_add(bytes) }
    }
}

fn is_abandoned(path: &Path) -> bool {
    let is_blob = path.file_name().unwrap_or_default().as_encoded_bytes().starts_with(b"blob");
    let age = fs::metadata(path).and_then(|found| found.modified()).map(|time| time.elapsed());
    let is_old = matches!(age, Ok(Ok(age)) if age >= LEFTOVER_AGE);
    (is_blob || is_old) && is_unlocked(path)
}

fn is_unlocked(path: &Path) -> bool {
    let locked = File::open(path).map(|file| file.try_lock());
    matches!(locked, Ok(Ok(()))) || matches!(locked, Ok(Err(TryLockError::Error(_))))
}

fn files(dir: &Path) -> Result<Vec<(PathBuf, u64)>, BakeError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(BakeError::io("read", dir))? {
        let path = entry.map_err(BakeError::io("read", dir))?.path();
        // Its writer may have renamed it meanwhile.
        if let Ok(metadata) = fs::metadata(&path)
            && metadata.is_file()
        {
            found.push((path, metadata.len()));
        }
    }
    Ok(found)
}

fn remove(path: &Path) -> Result<(), BakeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BakeError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
