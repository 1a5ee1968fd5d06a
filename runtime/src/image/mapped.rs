//! A snapshot's mapped form: its memory in one sparse file, made once and checked.
//!
//! `mapped/<digest>/memory` in the cache is written beside and renamed; `stamp` is written
//! last and vouches for the state file, the memory and the disks. A form without a stamp
//! that fits is made again. Makers take turns by a lock, so that the work is done once.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::memory::{PAGE_SIZE, Run};
use supermachine_formats::{Digest, Hasher};

use super::blobs::Blobs;
use super::stamp::{Stamps, TEMPORARY, stamp, temporary_beside, write_atomically};
use crate::Error;

/// How many parents are followed.
const MAX_ANCESTORS: usize = 64;
/// The largest state file that is read.
const MAX_STATE_SIZE: u64 = 64 << 20;
/// How much of a pages blob is held at once.
const PIECE: usize = 1 << 20;

/// A snapshot with everything that a restore needs open.
pub struct Mapped {
    digest: Digest,
    snapshot: Snapshot,
    memory: Arc<File>,
    disks: Vec<Arc<File>>,
}

/// What a snapshot holds would fill pages.
impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Mapped {
    /// Opens a snapshot's mapped form, making it if it is not there or does not fit.
    ///
    /// # Errors
    /// The snapshot is damaged or incomplete, or the cache cannot be written.
    pub fn open(blobs: &Blobs, digest: Digest, cache: &Path) -> Result<Self, Error> {
        let maker = Maker { blobs, digest, dir: cache.join("mapped").join(digest.hex()), cache };
        if let Some(mapped) = maker.existing() {
            return Ok(mapped);
        }
        let io_error = |path: &Path, operation| {
            let path = path.to_owned();
            move |source| Error::Io { operation, path, source }
        };
        fs::create_dir_all(&maker.dir).map_err(io_error(&maker.dir, "create"))?;
        let lock_path = maker.dir.join("lock");
        let lock = File::create(&lock_path).map_err(io_error(&lock_path, "create"))?;
        lock.lock().map_err(io_error(&lock_path, "lock"))?;
        match maker.existing() {
            Some(mapped) => Ok(mapped),
            None => {
                maker.remove_strays();
                maker.make()
            }
        }
    }

    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) fn memory(&self) -> &Arc<File> {
        &self.memory
    }

    pub(super) fn disks(&self) -> &[Arc<File>] {
        &self.disks
    }
}

struct Maker<'a> {
    blobs: &'a Blobs,
    digest: Digest,
    dir: PathBuf,
    cache: &'a Path,
}

impl Maker<'_> {
    /// The form that is there, if its stamp fits. Whatever is wrong with it, it is made anew.
    fn existing(&self) -> Option<Mapped> {
        let recorded = fs::read_to_string(self.dir.join("stamp")).ok()?;
        let memory = File::open(self.dir.join("memory")).ok()?;
        let mut state = self.blobs.open(&self.digest, "state").ok()?;
        let bytes = read_bounded(&mut state).ok()?;
        let snapshot = Snapshot::decode_trusted(&bytes).ok()?;
        let disks = self.open_disks(&snapshot).ok()?;
        let found = self.stamp_of(&state, &memory, &disks)?;
        (recorded == found).then(|| self.mapped(snapshot, memory, disks))
    }

    /// Removes what makers that were killed have left. The lock must be held.
    fn remove_strays(&self) {
        // What cannot be removed takes room, and no more.
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            if entry.file_name().as_encoded_bytes().ends_with(TEMPORARY.as_bytes()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn make(&self) -> Result<Mapped, Error> {
        let chain = self.verified_chain()?;
        let Some(snapshot) = chain.first().cloned() else {
            return Err(Error::TooManyAncestors { snapshot: self.digest, limit: MAX_ANCESTORS });
        };
        let disks = self.open_disks(&snapshot)?;
        let stamps = Stamps::new(self.cache);
        for (disk, file) in snapshot.disks.iter().zip(&disks) {
            if !stamps.holds(&disk.blob, file) {
                self.blobs.verify(&disk.blob, "disk")?;
                stamps.record(&disk.blob, file)?;
            }
        }
        let path = self.dir.join("memory");
        let memory = self.unpack(&chain, &path, snapshot.machine.memory_size)?;
        let state = self.blobs.open(&self.digest, "state")?;
        let Some(text) = self.stamp_of(&state, &memory, &disks) else {
            return Err(Error::MissingBlob { what: "mapped form", path });
        };
        write_atomically(&self.dir.join("stamp"), text.as_bytes())?;
        Ok(self.mapped(snapshot, memory, disks))
    }

    fn mapped(&self, snapshot: Snapshot, memory: File, disks: Vec<Arc<File>>) -> Mapped {
        Mapped { digest: self.digest, snapshot, memory: Arc::new(memory), disks }
    }

    fn open_disks(&self, snapshot: &Snapshot) -> Result<Vec<Arc<File>>, Error> {
        let open = |disk: &supermachine_formats::snapshot::Disk| {
            self.blobs.open(&disk.blob, "disk").map(Arc::new)
        };
        snapshot.disks.iter().map(open).collect()
    }

    fn stamp_of(&self, state: &File, memory: &File, disks: &[Arc<File>]) -> Option<String> {
        let mut files = vec![state.metadata().ok()?, memory.metadata().ok()?];
        for disk in disks {
            files.push(disk.metadata().ok()?);
        }
        Some(stamp(&files))
    }

    /// The snapshot and its ancestors, youngest first, each checked against its digest.
    fn verified_chain(&self) -> Result<Vec<Snapshot>, Error> {
        let mut chain = Vec::new();
        let mut next = Some(self.digest);
        while let Some(digest) = next {
            if chain.len() == MAX_ANCESTORS {
                let snapshot = self.digest;
                return Err(Error::TooManyAncestors { snapshot, limit: MAX_ANCESTORS });
            }
            let mut file = self.blobs.open(&digest, "state")?;
            let path = self.blobs.path(&digest);
            let bytes = read_bounded(&mut file).map_err(|source| Error::Io {
                operation: "read",
                path: path.clone(),
                source,
            })?;
            // What is damaged inside says more than that the whole has another digest.
            let snapshot = Snapshot::decode(&bytes)
                .map_err(|source| Error::Snapshot { snapshot: digest, source })?;
            let found = Digest::of(&bytes);
            if found != digest {
                return Err(Error::DamagedBlob { what: "state", path, found });
            }
            next = snapshot.machine.parent;
            chain.push(snapshot);
        }
        Ok(chain)
    }

    /// Writes the memory of a chain: the oldest ancestor's pages first, each younger one's on
    /// top.
    fn unpack(&self, chain: &[Snapshot], path: &Path, memory_size: u64) -> Result<File, Error> {
        let io_error = |source| Error::Io { operation: "write", path: path.to_owned(), source };
        let temporary = temporary_beside(path).map_err(io_error)?;
        let write = || {
            let file = File::options().read(true).write(true).create_new(true).open(&temporary);
            let file = file.map_err(io_error)?;
            file.set_len(memory_size).map_err(io_error)?;
            for snapshot in chain.iter().rev() {
                if snapshot.machine.memory_size != memory_size {
                    let (wanted, found) = (memory_size >> 20, snapshot.machine.memory_size >> 20);
                    return Err(Error::Mismatch { what: "MiB of memory", wanted, found });
                }
                self.unpack_layer(snapshot, &file)?;
            }
            file.sync_all().map_err(io_error)?;
            fs::rename(&temporary, path).map_err(io_error)?;
            // Opened again for reading only, so that nothing can write through it.
            File::open(path).map_err(io_error)
        };
        let result = write();
        if result.is_err() {
            // What is left is only a stray temporary file.
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    fn unpack_layer(&self, snapshot: &Snapshot, out: &File) -> Result<(), Error> {
        let memory = &snapshot.memory;
        let mut pages = self.blobs.open(&memory.blob, "pages")?;
        let path = self.blobs.path(&memory.blob);
        let io_error = |operation| {
            move |path: &Path, source| Error::Io { operation, path: path.into(), source }
        };
        let size = pages.metadata().map_err(|source| io_error("examine")(&path, source))?.len();
        if size != memory.own_pages() * PAGE_SIZE {
            return Err(Error::MissingBlob { what: "part of the pages", path });
        }
        let mut hasher = Hasher::new();
        let mut piece = vec![0; PIECE];
        for run in &memory.own {
            let mut offset = run.first * PAGE_SIZE;
            let mut rest = u64::from(run.count) * PAGE_SIZE;
            while rest > 0 {
                let count = usize::try_from(rest).unwrap_or(PIECE).min(PIECE);
                let bytes = piece.get_mut(..count).unwrap_or_default();
                pages.read_exact(bytes).map_err(|source| io_error("read")(&path, source))?;
                hasher.update(bytes);
                out.write_all_at(bytes, offset)
                    .map_err(|source| io_error("write")(&self.dir, source))?;
                offset += count as u64;
                rest -= count as u64;
            }
        }
        let found = hasher.finish();
        if found != memory.blob {
            return Err(Error::DamagedBlob { what: "pages", path, found });
        }
        for run in &memory.zeroed {
            zero(out, run).map_err(|source| io_error("write")(&self.dir, source))?;
        }
        Ok(())
    }
}

fn zero(out: &File, run: &Run) -> std::io::Result<()> {
    let zeros = [0; PAGE_SIZE as usize];
    (run.first..run.end()).try_for_each(|page| out.write_all_at(&zeros, page * PAGE_SIZE))
}

fn read_bounded(file: &mut File) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(MAX_STATE_SIZE).read_to_end(&mut bytes)?;
    Ok(bytes)
}
