//! Snapshots on disk, ready to start machines from.
//!
//! A store is a folder with `names/`, one small file a snapshot that holds the digest of its
//! state file, and `blobs/sha256/`, where every file is named by the digest of its content.
//! From these an image's *mapped form* is made once, in the user's cache, and checked while
//! it is made; after that a start only maps files.

mod blobs;
mod mapped;
mod stamp;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use supermachine_formats::Digest;
use supermachine_formats::snapshot::Snapshot;

pub use blobs::Blobs;
pub use mapped::Mapped;
pub use stamp::Stamps;

use crate::{Error, Vm, VmConfig, paths};

/// More than a file of the `names` folder ever holds.
const MAX_REFERENCE: u64 = 256;

/// A snapshot that machines can be started from. Cheap to clone.
///
/// ```no_run
/// use supermachine::{Image, VmConfig};
///
/// # fn main() -> Result<(), supermachine::Error> {
/// let image = Image::from_snapshot("names/redis")?;
/// let vm = image.start(&VmConfig::new().with_memory_mib(128))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Image {
    mapped: Arc<Mapped>,
}

impl Image {
    /// Opens the snapshot that a file in a store's `names` folder refers to.
    ///
    /// The first time, its memory is unpacked into the user's cache and every byte is
    /// checked; after that only a few files are opened.
    ///
    /// # Errors
    /// There is no such snapshot, or it is damaged, or the cache cannot be written.
    pub fn from_snapshot(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let digest = read_reference(path)?;
        let cache = paths::cache_dir().ok_or(Error::NoCacheDir)?;
        Self::open(&Blobs::new(&store_of(path)), digest, &cache)
    }

    /// Opens a snapshot by the digest of its state file, with its mapped form in `cache`.
    ///
    /// # Errors
    /// Those of [`Image::from_snapshot`].
    pub fn open(blobs: &Blobs, digest: Digest, cache: &Path) -> Result<Self, Error> {
        Ok(Self { mapped: Arc::new(Mapped::open(blobs, digest, cache)?) })
    }

    /// Starts a machine.
    ///
    /// # Errors
    /// Those of [`Vm::start`].
    pub fn start(&self, config: &VmConfig) -> Result<Vm, Error> {
        Vm::start(self, config)
    }

    /// The state that machines begin with.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        self.mapped.snapshot()
    }

    /// The digest of the snapshot's state file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.mapped.digest()
    }

    /// The memory that machines begin with: a file to map, never to write.
    #[must_use]
    pub fn memory(&self) -> &Arc<File> {
        self.mapped.memory()
    }

    /// The disks that machines have.
    #[must_use]
    pub fn disks(&self) -> &[Arc<File>] {
        self.mapped.disks()
    }
}

/// The store that a file of its `names` folder belongs to.
fn store_of(name: &Path) -> PathBuf {
    let names = name.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (names.file_name(), names.parent()) {
        (Some(_), Some(store)) if store.as_os_str().is_empty() => PathBuf::from("."),
        (Some(_), Some(store)) => store.to_owned(),
        // `.`, `..` and the like: what is above them cannot be told by their text.
        _ => names.join(".."),
    }
}

/// Reads a file of a store's `names` folder: the digest of a state file, and a line end.
fn read_reference(path: &Path) -> Result<Digest, Error> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_REFERENCE).read_to_end(&mut text))
        .map_err(|source| Error::NoSnapshot { path: path.to_owned(), source })?;
    let text = str::from_utf8(&text).ok();
    let digest = text.and_then(|text| text.trim_end().parse().ok());
    digest.ok_or_else(|| Error::NotAReference { path: path.to_owned() })
}

/// The folder that mapped forms are kept in by default.
///
/// # Errors
/// Neither `HOME` nor `XDG_CACHE_HOME` is set to an absolute path.
pub fn default_cache() -> Result<PathBuf, Error> {
    paths::cache_dir().ok_or(Error::NoCacheDir)
}
