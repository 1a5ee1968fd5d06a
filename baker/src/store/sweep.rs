//! Garbage collection: mark what is needed, sweep away the rest.
//!
//! Nobody may make anything meanwhile: bakes, imports and pulls hold unnamed blobs, and a sweep
//! waits for them. Whatever it is interrupted at, nothing is lost that a name leads to: keys go
//! before what they lead to, mapped forms before the snapshots by which they are found.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use supermachine_formats::Digest;
use supermachine_snapshots::mapped::{CacheUse, sweep_cache};

use super::Store;
use super::marks::Marks;
use crate::BakeError;

/// How old an unlocked file must be that is not a blob in the making: writers of names hold
/// nothing, and lock what they write right after making it.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);

/// How a store is swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepOptions {
    /// Whether bases go too, which the next bake has to make again.
    pub all: bool,
    /// Whether only to tell what would go.
    pub dry_run: bool,
    /// Whether to wait until nobody makes anything in the store.
    pub wait: bool,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self { all: false, dry_run: false, wait: true }
    }
}

/// How many of something there were, and what they took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Freed {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a sweep took away, or would.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// Blobs that nothing leads to.
    pub blobs: Freed,
    /// Files and folders in the cache that no snapshot of the store uses.
    pub mapped: Freed,
    /// What killed writers left.
    pub leftovers: Freed,
    /// Keys that led to nothing any more.
    pub keys: u64,
    /// Files of locks that nobody had.
    pub locks: u64,
}

impl Store {
    /// Removes what no name leads to. `waiting` is called if that has to wait for somebody.
    ///
    /// # Errors
    /// [`BakeError::Busy`] if it would have to wait and may not; a snapshot with a name that
    /// cannot be read, as it is not known what belongs to it; or a file cannot be removed.
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
            return Err(BakeError::Busy { store: self.dir().to_owned() });
        };
        let marks = Marks::of(self, options.all)?;
        let unneeded = self.unneeded(&marks)?;
        let mut swept = Swept { keys: marks.dead_keys.len() as u64, ..Swept::default() };
        swept.blobs = unneeded.iter().fold(Freed::default(), |sum, (_, bytes)| sum.and(*bytes));
        let remove = |path: &Path| match options.dry_run {
            true => Ok(()),
            false => remove(path),
        };
        marks.dead_keys.iter().try_for_each(|path| remove(path))?;
        let CacheUse { count, bytes, .. } =
            sweep_cache(self.cache(), &marks.cache, options.dry_run)
                .map_err(|error| BakeError::Cache { source: error.into() })?;
        swept.mapped = Freed { count, bytes };
        unneeded.iter().try_for_each(|(path, _)| remove(path))?;
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

    /// The blobs that are not marked, and their bytes.
    pub(super) fn unneeded(&self, marks: &Marks) -> Result<Vec<(PathBuf, u64)>, BakeError> {
        let all = self.blobs()?.into_iter();
        let unmarked = all.filter(|(digest, ..)| digest.is_none_or(|digest| !marks.has(digest)));
        Ok(unmarked.map(|(_, path, bytes)| (path, bytes)).collect())
    }

    /// All files among the blobs, in the order of their names.
    pub(super) fn blobs(&self) -> Result<Vec<(Option<Digest>, PathBuf, u64)>, BakeError> {
        let mut found = Vec::new();
        for (path, bytes) in files(&self.dir().join("blobs/sha256"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            found.push((Digest::from_hex(&name).ok(), path, bytes));
        }
        found.sort();
        Ok(found)
    }

    /// Files in the making that nobody makes.
    fn leftovers(&self) -> Result<Vec<(PathBuf, u64)>, BakeError> {
        let mut found = files(&self.dir().join("tmp"))?;
        found.retain(|(path, _)| is_abandoned(path));
        Ok(found)
    }

    /// Locks of keys: those who take them hold, so that nobody has one while all is swept.
    fn free_locks(&self) -> Result<Vec<PathBuf>, BakeError> {
        let mut found = files(&self.dir().join("locks"))?;
        found.retain(|(path, _)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Digest::from_hex(&name).is_ok() && is_unlocked(path)
        });
        Ok(found.into_iter().map(|(path, _)| path).collect())
    }
}

impl Freed {
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
        // Who wrote it may have given it its name meanwhile.
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
