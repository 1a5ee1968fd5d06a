//! What is in the cache beyond need, and what is in it damaged.
//!
//! A form that is removed is only made again, and machines keep what they have mapped. Nothing
//! is removed while somebody makes a form.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use supermachine_formats::Digest;
use supermachine_formats::pack::{CHUNK_SIZE, Index};

use super::cache::{Entry, Kind, hold_alone};
use super::place::{Place, Wanted, parts};
use crate::Error;
use crate::pack::Pack;

/// What mapped forms consist of.
#[derive(Debug, Default)]
pub struct CacheParts {
    snapshots: BTreeSet<Digest>,
    files: BTreeSet<(u8, Digest)>,
}

/// What was found in a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheUse {
    /// Files, and folders of snapshots.
    pub count: u64,
    /// Bytes that they take on disk.
    pub bytes: u64,
}

/// What a snapshot's mapped form was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormCheck {
    /// There is nothing of it.
    Absent,
    /// What there is of it is as it should be.
    Whole,
    /// Something was damaged and has been removed; it is made again when it is needed.
    Removed,
}

impl CacheParts {
    /// Adds what a snapshot's mapped form consists of.
    pub fn add(&mut self, snapshot: Digest, index: &Index) {
        self.snapshots.insert(snapshot);
        self.add_files(index);
    }

    /// Adds the files of an index that belongs to no snapshot.
    pub fn add_files(&mut self, index: &Index) {
        let files = parts(index).into_iter();
        self.files.extend(files.map(|(kind, identity, ..)| (kind as u8, identity)));
    }
}

/// What the mapped forms in a cache take.
#[must_use]
pub fn cache_use(cache: &Path) -> CacheUse {
    unused(cache, &CacheParts::default()).0
}

/// What a cache holds beyond `kept`; removed unless this is only a rehearsal.
///
/// # Errors
/// It cannot be made sure that nobody makes anything in the cache.
pub fn sweep_cache(cache: &Path, kept: &CacheParts, is_rehearsal: bool) -> Result<CacheUse, Error> {
    if is_rehearsal {
        return Ok(unused(cache, kept).0);
    }
    // What is being made is used at once: nobody shall find it gone.
    let _hold = hold_alone(cache)?;
    let (found, folders, files) = unused(cache, kept);
    folders.iter().for_each(Place::remove);
    files.iter().for_each(Entry::remove);
    Ok(found)
}

type Unused = (CacheUse, Vec<Place>, Vec<Entry>);

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
            folders.push(Place::new(cache, digest));
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

/// Bytes on disk of the files in a folder.
fn taken(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let blocks = entries.map(|entry| entry.metadata().map_or(0, |found| found.blocks()));
    blocks.fold(0, |sum: u64, blocks| sum.saturating_add(blocks.saturating_mul(512)))
}

/// Checks every byte of a snapshot's mapped form, as far as it is there, and removes what is
/// damaged.
///
/// # Errors
/// It cannot be made sure that nobody makes anything in the cache.
pub fn check_form(cache: &Path, pack: &Pack) -> Result<FormCheck, Error> {
    let place = Place::new(cache, pack.digest);
    let contents: Vec<Digest> = pack.index.chunks().map(|(_, _, chunk)| chunk.content).collect();
    let mut result = FormCheck::Absent;
    let mut damaged = Vec::new();
    for wanted in place.wanted(pack) {
        let Some((file, _)) = wanted.entry.existing() else { continue };
        if is_whole(&file, &wanted, &contents) {
            result = FormCheck::Whole;
        } else {
            damaged.push(wanted.entry);
        }
    }
    let state = place.state();
    let is_state_damaged = state.as_ref().is_some_and(|state| *state != pack.state);
    if state.is_some() {
        result = FormCheck::Whole;
    }
    if !damaged.is_empty() || is_state_damaged {
        let _hold = hold_alone(cache)?;
        damaged.iter().for_each(Entry::remove);
        place.remove();
        result = FormCheck::Removed;
    }
    Ok(result)
}

/// Whether a file holds what its chunks say, and zeros elsewhere.
fn is_whole(file: &fs::File, wanted: &Wanted<'_>, contents: &[Digest]) -> bool {
    let chunks = wanted.chunks();
    let stored = chunks.chunks().filter_map(|(place, number)| Some((place, number?)));
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

impl Place {
    /// Removes the snapshot's own part of the cache. What cannot be removed takes room, and no
    /// more.
    fn remove(&self) {
        let _ = fs::remove_dir_all(self.dir());
    }

    /// The state file as it is in the cache.
    fn state(&self) -> Option<Vec<u8>> {
        fs::read(self.dir().join("state")).ok()
    }
}
