//! A folder of blobs, each a file named by the digest of its content.
//!
//! `blobs/sha256/` holds them, and `tmp/` files in the making, each locked by the process that
//! writes it. Any number of processes use the folder at once. A file appears whole or not at all.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use supermachine_formats::{Digest, Hasher};

use super::manifest::Descriptor;
use crate::error::PackError;
use crate::stamp::{TEMPORARY, temporary_beside};

/// How old an unlocked temporary file must be to be a leftover: its owner locks it right after
/// making it.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);

/// A folder of blobs.
#[derive(Debug, Clone)]
pub struct BlobDir {
    dir: PathBuf,
}

impl BlobDir {
    /// Opens the folder, creating it if it does not exist.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, PackError> {
        let blobs = Self { dir: dir.into() };
        for path in [blobs.dir.join("blobs/sha256"), blobs.temporary_dir()] {
            fs::create_dir_all(&path).map_err(io("create", &path))?;
        }
        remove_leftovers(&blobs.temporary_dir(), TEMPORARY);
        Ok(blobs)
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where files in the making are.
    #[must_use]
    pub fn temporary_dir(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// Where a blob is, or would be.
    #[must_use]
    pub fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// Begins a blob.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn writer(&self) -> Result<BlobWriter, PackError> {
        let file = self.temporary("blob")?;
        Ok(BlobWriter { file, hasher: Hasher::new(), size: 0, dir: self.clone() })
    }

    /// Writes a blob in one go, unless it exists. A damaged one is replaced.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, content: &[u8]) -> Result<Descriptor, PackError> {
        let descriptor = Descriptor { digest: Digest::of(content), size: content.len() as u64 };
        let path = self.path(descriptor.digest);
        // What is damaged there is mended.
        let is_as_large = fs::metadata(&path).is_ok_and(|found| found.len() == descriptor.size);
        if is_as_large && fs::read(&path).is_ok_and(|found| found == content) {
            return Ok(descriptor);
        }
        let mut writer = self.writer()?;
        writer.write(content)?;
        writer.commit()
    }

    /// Writes a small file of the folder so that readers see the old one or the new one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn replace(&self, name: &str, content: &[u8]) -> Result<(), PackError> {
        let path = self.dir.join(name);
        let mut file = self.temporary("file")?;
        file.file.write_all(content).map_err(io("write", &path))?;
        file.persist(&path)
    }

    fn temporary(&self, kind: &str) -> Result<Temporary, PackError> {
        let wanted = self.temporary_dir().join(kind);
        let path = temporary_beside(&wanted).map_err(io("name a file beside", &wanted))?;
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(io("create", &path))?;
        let temporary = Temporary { file, path: Some(path) };
        temporary.file.lock().map_err(io("lock", &wanted))?;
        Ok(temporary)
    }
}

/// Removes what killed processes left in a folder of temporary files, whose owners lock them: of
/// those whose names end like this, the old ones. Failing to clean up must not keep anybody from
/// working, so errors are passed over.
pub fn remove_leftovers(dir: &Path, ending: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_meant = path.as_os_str().as_encoded_bytes().ends_with(ending.as_bytes());
        let Ok(file) = File::open(&path) else { continue };
        let age = file.metadata().and_then(|metadata| metadata.modified()).map(|t| t.elapsed());
        let is_old = matches!(age, Ok(Ok(age)) if age >= LEFTOVER_AGE);
        if is_meant && is_old && file.try_lock().is_ok() {
            let _ = fs::remove_file(path);
        }
    }
}

/// A blob in the making: dropped without a commit, it leaves nothing behind.
#[derive(Debug)]
pub struct BlobWriter {
    file: Temporary,
    hasher: Hasher,
    size: u64,
    dir: BlobDir,
}

impl BlobWriter {
    /// Appends `content`.
    ///
    /// # Errors
    /// It cannot be written, as when the disk is full.
    pub fn write(&mut self, content: &[u8]) -> Result<(), PackError> {
        let tmp = self.dir.temporary_dir();
        self.file.file.write_all(content).map_err(io("write a file in", &tmp))?;
        self.hasher.update(content);
        self.size += content.len() as u64;
        Ok(())
    }

    /// Drops what was written, to start again.
    ///
    /// # Errors
    /// The file cannot be emptied.
    pub fn restart(&mut self) -> Result<(), PackError> {
        let file = &mut self.file.file;
        let emptied = file.set_len(0).and_then(|()| file.rewind());
        emptied.map_err(io("truncate a file in", &self.dir.temporary_dir()))?;
        (self.hasher, self.size) = (Hasher::new(), 0);
        Ok(())
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.size
    }

    /// The digest of what was written so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Makes what was written a blob, whatever its digest turns out to be.
    ///
    /// # Errors
    /// It cannot be written; then nothing is left.
    pub fn commit(self) -> Result<Descriptor, PackError> {
        let digest = self.hasher.finish();
        self.file.persist(&self.dir.path(digest))?;
        Ok(Descriptor { digest, size: self.size })
    }

    /// Checks that what was written is the blob `expected`, and gives it its name.
    ///
    /// # Errors
    /// It is another blob, or cannot be written; then nothing is left.
    pub fn commit_as(self, section: &'static str, expected: &Descriptor) -> Result<(), PackError> {
        let Descriptor { digest, size: expected } = *expected;
        if self.size != expected {
            return Err(PackError::Size { section, digest, expected, found: self.size });
        }
        let found = self.hasher.clone().finish();
        if found != digest {
            return Err(PackError::Damaged { section, digest, found });
        }
        self.commit().map(drop)
    }
}

/// A file that goes away unless it is given its name.
#[derive(Debug)]
struct Temporary {
    file: File,
    path: Option<PathBuf>,
}

impl Temporary {
    /// Gives the file its name, so that it is there whole even after a crash.
    fn persist(mut self, to: &Path) -> Result<(), PackError> {
        self.file.sync_all().map_err(io("write", to))?;
        if let Some(from) = &self.path {
            fs::rename(from, to).map_err(io("create", to))?;
        }
        self.path = None;
        let Some(folder) = to.parent() else { return Ok(()) };
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("write", folder))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What is left is only a leftover.
            let _ = fs::remove_file(path);
        }
    }
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PackError + use<> {
    let path = path.to_owned();
    move |source| PackError::Io { operation, path, source }
}
