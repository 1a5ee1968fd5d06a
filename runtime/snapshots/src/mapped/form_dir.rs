//! The folder of a snapshot's mapped form, and the files that the form refers to.
//!
//! `snapshots/<digest>/` in the cache holds the state file and the `form`, which names the files of
//! memory and disks and is written last. Snapshots share files: the memory of one base, the disk of
//! one image. Locks make sure that the work is done once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use supermachine_formats::Digest;
use supermachine_formats::pack::{Index, Layer, Space};
use supermachine_formats::snapshot::Snapshot;

use super::cache::{Entry, FileInProgress, Kind, hold, lock};
use super::expand::{Task, expand};
use super::form::{Form, Part};
use super::overlay::Coverage;
use crate::error::Error;
use crate::pack::{ChunkReader, Pack, PackError, Source};
use crate::stamp::{stamp, write_atomically};
use supermachine_vmm::{MemoryFiles, Overlay};

/// A cleaner of the cache may spoil a new form, but not each time.
const ATTEMPTS: usize = 3;

/// The files of a snapshot, open.
#[derive(Debug, Clone)]
pub struct Mapped {
    /// The memory.
    pub memory: MemoryFiles,
    /// The disks, as the state file lists them.
    pub disks: Vec<Arc<File>>,
}

/// The folder of a snapshot's mapped form.
#[derive(Debug, Clone)]
pub struct FormDir {
    cache: PathBuf,
    dir: PathBuf,
}

/// A marker that this process makes a form in the background.
#[derive(Debug)]
pub struct ExpansionMarker {
    /// Locked by each such process until it exits.
    #[expect(dead_code, reason = "it is kept for its lock")]
    note: File,
    /// Whether earlier processes exited before they had made the form.
    pub is_given_up: bool,
}

impl FormDir {
    /// The folder of the form of `snapshot` in `cache`.
    #[must_use]
    pub fn new(cache: &Path, snapshot: Digest) -> Self {
        let dir = cache.join("snapshots").join(snapshot.hex());
        Self { cache: cache.to_owned(), dir }
    }

    /// The cache of the form.
    #[must_use]
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The existing form, if it is valid. An invalid one is made again.
    #[must_use]
    pub fn existing(&self) -> Option<(Snapshot, Mapped)> {
        let form = Form::decode(&fs::read_to_string(self.dir.join("form")).ok()?)?;
        let state = fs::read(self.dir.join("state")).ok()?;
        let metadata = fs::metadata(self.dir.join("state")).ok()?;
        if stamp(&metadata) != form.state {
            return None;
        }
        let snapshot = Snapshot::decode_trusted(&state).ok()?;
        let open = |kind, part: &Part| {
            Entry::new(&self.cache, kind, part.identity).open_as(&part.stamp).map(Arc::new)
        };
        let base = open(Kind::Memory, &form.base)?;
        let mut overlays = Vec::new();
        if let Some((part, runs)) = &form.overlay {
            let file = open(Kind::Overlay, part)?;
            overlays.push(Overlay { file, runs: runs.as_slice().into() });
        }
        let disks = form.disks.iter().map(|disk| open(Kind::Disk, disk)).collect::<Option<_>>()?;
        Some((snapshot, Mapped { memory: MemoryFiles { base, overlays }, disks }))
    }

    /// Marks, until the result is dropped, that this process starts machines without the form and
    /// makes it in the background.
    ///
    /// # Errors
    /// The marker cannot be written.
    pub fn begin(&self) -> io::Result<ExpansionMarker> {
        let path = self.begun();
        fs::create_dir_all(&self.dir)?;
        let (note, is_new) = match File::options().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (File::open(&path)?, false)
            }
            note => (note?, true),
        };
        let is_given_up = !is_new && note.try_lock().is_ok();
        note.lock_shared()?;
        Ok(ExpansionMarker { note, is_given_up })
    }

    /// Removes the markers of earlier processes, when the form cannot be made.
    pub fn forget_begun(&self) {
        // If it cannot be removed, other processes just try again.
        let _ = fs::remove_file(self.begun());
    }

    fn begun(&self) -> PathBuf {
        self.dir.join("begun")
    }

    /// Makes the form of a pack, unless another process does so first.
    ///
    /// # Errors
    /// The pack is damaged, or the cache cannot be written.
    pub fn make(&self, pack: &Arc<Pack>) -> Result<Mapped, Error> {
        let io = |operation| {
            let path = self.dir.clone();
            move |source| Error::Io { operation, path, source }
        };
        let _hold = hold(&self.cache)?;
        let _turn = lock(&self.dir.join("lock"))?;
        for _ in 0..ATTEMPTS {
            if let Some((_, mapped)) = self.existing() {
                return Ok(mapped);
            }
            self.make_once(pack)?;
        }
        let spoiled = std::io::Error::other("it was removed while it was made");
        Err(io("use the mapped form in")(spoiled))
    }

    fn make_once(&self, pack: &Arc<Pack>) -> Result<(), Error> {
        let coverage = Coverage::of(&pack.index.memory);
        let wanted = self.wanted(&pack.index, &coverage);
        self.make_missing(pack, &wanted)?;
        let mut parts = Vec::with_capacity(wanted.len());
        for part in &wanted {
            // A cleaner of the cache may have removed it; the caller tries again.
            let Some((_, stamp)) = part.entry.existing() else { return Ok(()) };
            parts.push((part.kind, Part { identity: part.identity, stamp }));
        }
        let state = self.dir.join("state");
        write_atomically(&state, &pack.state)?;
        let examined = fs::metadata(&state);
        let io = |source| Error::Io { operation: "examine", path: state, source };
        let mut form = Form {
            state: stamp(&examined.map_err(io)?),
            base: Part { identity: pack.digest, stamp: String::new() },
            overlay: None,
            disks: Vec::new(),
        };
        for (kind, part) in parts {
            match kind {
                Kind::Memory => form.base = part,
                Kind::Overlay => form.overlay = Some((part, coverage.runs())),
                Kind::Disk => form.disks.push(part),
            }
        }
        write_atomically(&self.dir.join("form"), form.encode().as_bytes())
    }

    /// The snapshot's own folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files of the form.
    pub(super) fn wanted<'a>(&self, index: &'a Index, coverage: &Coverage) -> Vec<FormFile<'a>> {
        let files = parts(index, coverage).into_iter();
        let wanted = files.map(|(kind, identity, space)| FormFile {
            kind,
            identity,
            entry: Entry::new(&self.cache, kind, identity),
            space,
            chunks: match kind {
                Kind::Memory => space.layers.first().cloned().unwrap_or_default(),
                Kind::Overlay => coverage.chunks(space),
                Kind::Disk => space.flattened(0),
            },
        });
        wanted.collect()
    }

    /// Makes all missing files at once.
    fn make_missing(&self, pack: &Arc<Pack>, wanted: &[FormFile<'_>]) -> Result<(), Error> {
        let mut missing: Vec<&FormFile<'_>> =
            wanted.iter().filter(|part| part.entry.existing().is_none()).collect();
        // Locks are taken in a fixed order. Two disks may be the same file.
        missing.sort_by_key(|part| (part.kind as u8, part.identity.0));
        missing.dedup_by_key(|part| (part.kind, part.identity));
        let mut makings: Vec<(&FormFile<'_>, FileInProgress)> = Vec::new();
        for part in missing {
            if let Some(making) = part.entry.make(part.space.size)? {
                makings.push((part, making));
            }
        }
        let tasks: Vec<Task<'_>> =
            makings.iter().map(|(part, making)| Task { making, chunks: &part.chunks }).collect();
        expand(&ChunkReader::new(pack)?, &tasks)?;
        drop(tasks);
        makings.into_iter().try_for_each(|(_, making)| making.finish())
    }
}

/// The files for an index: the kind of each, its identity, and its space.
pub(super) fn parts<'a>(index: &'a Index, coverage: &Coverage) -> Vec<(Kind, Digest, &'a Space)> {
    let memory = &index.memory;
    let layers = memory.layers.len();
    let mut parts = vec![(Kind::Memory, index.identity(memory, layers.min(1)), memory)];
    if layers > 1 {
        let identity = coverage.identity(index.identity(memory, layers));
        parts.push((Kind::Overlay, identity, memory));
    }
    let disk = |disk: &'a Space| (Kind::Disk, index.identity(disk, disk.layers.len()), disk);
    parts.extend(index.disks.iter().map(disk));
    parts
}

/// A file of a form.
pub(super) struct FormFile<'a> {
    kind: Kind,
    identity: Digest,
    pub(super) entry: Entry,
    pub(super) space: &'a Space,
    /// The chunks that it holds.
    pub(super) chunks: Layer,
}

/// Moves a file with the content of a disk of an index into the cache, which saves its expansion.
/// The caller has checked it, and it is on the cache's file system.
///
/// # Errors
/// The cache cannot be written.
pub fn adopt_disk(cache: &Path, index: &Index, disk: usize, file: &Path) -> Result<(), Error> {
    let Some(space) = index.disks.get(disk) else { return Ok(()) };
    disk_entry(cache, index, space).adopt(file)
}

/// The expanded file of the only disk of an index, made from a store's blobs if it is missing.
///
/// # Errors
/// A blob is missing or damaged, or the cache cannot be written.
pub fn expanded_disk(cache: &Path, source: &Source, index: &Index) -> Result<File, Error> {
    let Some(space) = index.disks.first() else {
        return Err(PackError::Inconsistent { what: "no disk" }.into());
    };
    let _hold = hold(cache)?;
    let entry = disk_entry(cache, index, space);
    for _ in 0..ATTEMPTS {
        if let Some((file, _)) = entry.existing() {
            return Ok(file);
        }
        if let Some(making) = entry.make(space.size)? {
            let chunks = &space.flattened(0);
            let reader = ChunkReader::of_index(source, index)?;
            expand(&reader, &[Task { making: &making, chunks }])?;
            making.finish()?;
        }
    }
    let spoiled = std::io::Error::other("it was removed while it was made");
    Err(entry.io("use")(spoiled))
}

/// Removes a snapshot's own folder in the cache. A file that cannot be removed only takes space.
pub fn forget_mapped(cache: &Path, snapshot: Digest) {
    let _ = fs::remove_dir_all(FormDir::new(cache, snapshot).dir);
}

fn disk_entry(cache: &Path, index: &Index, space: &Space) -> Entry {
    Entry::new(cache, Kind::Disk, index.identity(space, space.layers.len()))
}
