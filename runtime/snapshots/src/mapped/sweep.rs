//! Sweeping the cache: files that are no longer needed, and damaged ones.
//!
//! A removed form is made again on demand, and machines keep their mappings. A sweep excludes
//! makers of forms.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use supermachine_formats::Digest;
use supermachine_formats::pack::{CHUNK_SIZE, Index};

use super::cache::{Entry, Kind, hold_alone};
use super::form_dir::{FormDir, FormFile, parts};
use super::overlay::Coverage;
use crate::error::Error;
use crate::pack::Pack;

/// The parts of mapped forms.
#[derive(Debug, Default)]
pub struct CacheParts {
    snapshots: BTreeSet<Digest>,
    files: BTreeSet<(u8, Digest)>,
}

/// The use of a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheUse {
    /// The number of files and of snapshots' folders.
    pub count: u64,
    /// Their size on disk, in bytes.
    pub bytes: u64,
}

/// The result of a check of a mapped form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormCheck {
    /// No part of it exists.
    Absent,
    /// All existing parts are valid.
    Whole,
    /// A damaged part was removed, and is made again on demand.
    Removed,
}

impl CacheParts {
    /// Adds the parts of a snapshot's mapped form.
    pub fn add(&mut self, snapshot: Digest, index: &Index) {
        self.snapshots.insert(snapshot);
        self.add_files(index);
    }

    /// Adds the files of an index without a snapshot.
    pub fn add_files(&mut self, index: &Index) {
        let files = parts(index, &Coverage::of(&index.memory)).into_iter();
        self.files.extend(files.map(|(kind, identity, _)| (kind as u8, identity)));
    }
}

/// The use of a cache by mapped forms.
#[must_use]
pub fn cache_use(cache: &Path) -> CacheUse {
    unused(cache, &CacheParts::default()).0
}

/// Finds the parts of a cache that are not in `kept`, and removes them unless this is a dry run.
///
/// # Errors
/// The makers of forms cannot be excluded.
pub fn sweep_cache(cache: &Path, kept: &CacheParts, is_rehearsal: bool) -> Result<CacheUse, Error> {
    if is_rehearsal {
        return Ok(unused(cache, kept).0);
    }
    // A form in progress is used at once, and must not disappear.
    let _hold = hold_alone(cache)?;
    let (found, folders, files) = unused(cache, kept);
    folders.iter().for_each(FormDir::remove);
    files.iter().for_each(Entry::remove);
    Ok(found)
}

type Unused = (CacheUse, Vec<FormDir>, Vec<Entry>);

fn unused(cache: &Path, kept: &CacheParts) -> Unused {
    let mut found = CacheUse::default();
    let mut add = |bytes: u64| {
        found.count += 1;
        found.bytes = found.bytes.saturating_add(bytes);
    };
    let mut folders = Vec::new();
    for entry in fs::read_dir(cache.join("snapshots")).into_iter().flatten().flatten() {
        let Ok(digest) = Digest::from_hex(&entry.file_name().to_string_lossy()) else { continue };
        if !kept.snapshots.contains(&digest) {
            add(taken(&entry.path()));
            folders.push(FormDir::new(cache, digest));
        }
    }
    let mut files = Vec::new();
    for kind in Kind::ALL {
        for (identity, entry, bytes) in Entry::list(cache, kind) {
            if !kept.files.contains(&(kind as u8, identity)) {
                add(bytes);
                files.push(entry);
            }
        }
    }
    (found, folders, files)
}

/// The size on disk of the files in a folder, in bytes.
fn taken(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let blocks = entries.map(|entry| entry.metadata().map_or(0, |found| found.blocks()));
    blocks.fold(0, |sum: u64, blocks| sum.saturating_add(blocks.saturating_mul(512)))
}

/// Checks every byte of the existing parts of a mapped form, and removes damaged ones.
///
/// # Errors
/// The makers of forms cannot be excluded.
pub fn check_form(cache: &Path, pack: &Pack) -> Result<FormCheck, Error> {
    let dir = FormDir::new(cache, pack.digest);
    let contents: Vec<Digest> = pack.index.chunks().map(|(_, _, chunk)| chunk.content).collect();
    let mut result = FormCheck::Absent;
    let mut damaged = Vec::new();
    for wanted in dir.wanted(&pack.index, &Coverage::of(&pack.index.memory)) {
        let Some((file, _)) = wanted.entry.existing() else { continue };
        if is_whole(&file, &wanted, &contents) {
            result = FormCheck::Whole;
        } else {
            damaged.push(wanted.entry);
        }
    }
    let state = dir.state();
    let is_state_damaged = state.as_ref().is_some_and(|state| *state != pack.state);
    if state.is_some() {
        result = FormCheck::Whole;
    }
    if !damaged.is_empty() || is_state_damaged {
        let _hold = hold_alone(cache)?;
        damaged.iter().for_each(Entry::remove);
        dir.remove();
        result = FormCheck::Removed;
    }
    Ok(result)
}

/// Whether a file holds its chunks, and zeros elsewhere.
fn is_whole(file: &fs::File, wanted: &FormFile<'_>, contents: &[Digest]) -> bool {
    let stored = wanted.chunks.chunks().filter_map(|(place, number)| Some((place, number?)));
    let mut chunks = stored.peekable();
    let mut content = vec![0; CHUNK_SIZE as usize];
    for place in 0..wanted.space.size / CHUNK_SIZE {
        if file.read_exact_at(&mut content, place * CHUNK_SIZE).is_err() {
            return false;
        }
        let fits = match chunks.next_if(|(found, _)| u64::from(*found) == place) {
            Some((_, number)) => contents.get(number as usize) == Some(&Digest::of(&content)),
            None => content.iter().all(|byte| *byte == 0),
        };
        if !fits {
            return false;
        }
    }
    true
}

impl FormDir {
    /// Removes the snapshot's own folder in the cache. A file that cannot be removed only takes
    /// space.
    fn remove(&self) {
        let _ = fs::remove_dir_all(self.dir());
    }

    /// The state file in the cache.
    fn state(&self) -> Option<Vec<u8>> {
        fs::read(self.dir().join("state")).ok()
    }
}
