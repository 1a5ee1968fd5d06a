//! The folder of snapshots: an OCI image layout, and what was made before.
//!
//! Snapshots lie in it as packs that share blobs, named by its index; `keys/` remembers which
//! digest a set of inputs gave, so that the same work is not done twice; `locks/` makes those
//! who want the same thing take turns. A name appears only when all that it leads to is there.
//! Any number of processes may use the folder at once.

mod archive;
mod import;
mod marks;
mod summary;
mod sweep;
mod transfer;
mod usage;
mod verify;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use supermachine::Image;
use supermachine::image::default_cache;
use supermachine_formats::Digest;
use supermachine_snapshots::pack::{
    Descriptor, Layout, Manifest, Named, PackError, Source, is_name,
};

use crate::BakeError;
pub use import::Imported;
pub use summary::{Footprint, Sizes, Summary};
pub use sweep::{Freed, SweepOptions, Swept};
pub use transfer::Transferred;
pub use usage::Usage;
pub use verify::Verified;

/// A folder of snapshots.
#[derive(Debug, Clone)]
pub struct Store {
    layout: Layout,
    cache: PathBuf,
}

impl Store {
    /// Opens the store in `dir`, making it if it is not there. Downloads and mapped forms go to
    /// the user's cache.
    ///
    /// # Errors
    /// The folder cannot be made, or there is no cache folder.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, BakeError> {
        let cache = default_cache().map_err(BakeError::machine("opening of the store"))?;
        Self::open_with_cache(dir, cache)
    }

    /// Opens the store in `dir` with another cache folder.
    ///
    /// # Errors
    /// A folder cannot be made.
    pub fn open_with_cache(
        dir: impl Into<PathBuf>,
        cache: impl Into<PathBuf>,
    ) -> Result<Self, BakeError> {
        let layout = Layout::open(dir)?;
        let keys = layout.dir().join("keys");
        fs::create_dir_all(&keys).map_err(BakeError::io("create", keys))?;
        Ok(Self { layout, cache: cache.into() })
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.layout.dir()
    }

    /// The folder as an image layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The cache folder.
    #[must_use]
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The names of all snapshots, sorted.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn names(&self) -> Result<Vec<String>, BakeError> {
        let all = self.layout.snapshots()?.into_iter();
        let mut names: Vec<String> = all.filter_map(|named| named.name).collect();
        names.sort();
        Ok(names)
    }

    /// The manifest's digest that a name leads to.
    ///
    /// # Errors
    /// [`BakeError::NoSuchName`], or the index cannot be read.
    pub fn digest(&self, name: &str) -> Result<Digest, BakeError> {
        self.check_name(name)?;
        let mut all = self.layout.snapshots()?.into_iter();
        let is_wanted = |named: &Named| named.name.as_deref() == Some(name);
        all.find(is_wanted).map(|named| named.descriptor.digest).ok_or_else(|| {
            BakeError::NoSuchName { name: name.to_owned(), store: self.dir().to_owned() }
        })
    }

    /// Opens a snapshot by name.
    ///
    /// # Errors
    /// There is none of this name, or it is damaged.
    pub fn image(&self, name: &str) -> Result<Image, BakeError> {
        self.open_image(self.digest(name)?)
    }

    /// Opens a snapshot by the digest of its manifest.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn open_image(&self, digest: Digest) -> Result<Image, BakeError> {
        Image::open(self.source()?, digest, &self.cache)
            .map_err(BakeError::machine("opening of the snapshot"))
    }

    /// Forgets a name. Blobs stay: other snapshots may share them.
    ///
    /// # Errors
    /// [`BakeError::NoSuchName`], or the index cannot be written.
    pub fn remove(&self, name: &str) -> Result<(), BakeError> {
        self.check_name(name)?;
        if self.layout.remove_name(name)? {
            return Ok(());
        }
        Err(BakeError::NoSuchName { name: name.to_owned(), store: self.dir().to_owned() })
    }

    /// Bytes of a blob.
    #[must_use]
    pub fn blob_size(&self, digest: Digest) -> Option<u64> {
        fs::metadata(self.layout.blob_path(digest)).ok().map(|metadata| metadata.len())
    }

    pub(crate) fn source(&self) -> Result<Source, PackError> {
        self.layout.source()
    }

    /// Refuses what cannot be a snapshot's name.
    pub(crate) fn check_name(&self, name: &str) -> Result<(), BakeError> {
        if is_name(name) { Ok(()) } else { Err(BakeError::InvalidName { name: name.to_owned() }) }
    }

    pub(crate) fn set_name(&self, name: &str, digest: Digest) -> Result<(), BakeError> {
        self.check_name(name)?;
        let missing = PackError::MissingBlob { section: "manifest", digest };
        let size = self.blob_size(digest).ok_or(missing)?;
        Ok(self.layout.set_name(name, Descriptor { digest, size })?)
    }

    /// The snapshot that a set of inputs gave before, if all of it is still there.
    pub(crate) fn made_snapshot(&self, key: Digest) -> Option<Digest> {
        let digest = self.made(key)?;
        let manifest = Manifest::read(&self.source().ok()?, digest).ok()?;
        let is_whole = manifest.blobs().all(|blob| self.blob_size(blob.digest) == Some(blob.size));
        is_whole.then_some(digest)
    }

    /// What a set of inputs gave before, if its blob is still there.
    pub(crate) fn made(&self, key: Digest) -> Option<Digest> {
        let text = fs::read_to_string(self.dir().join(key_name(key))).ok()?;
        let digest = text.trim_end().parse().ok()?;
        self.layout.blob_path(digest).is_file().then_some(digest)
    }

    /// Remembers what a set of inputs gave.
    pub(crate) fn remember(&self, key: Digest, made: Digest) -> Result<(), BakeError> {
        Ok(self.layout.replace(&key_name(key), format!("{made}\n").as_bytes())?)
    }

    /// Holds everybody else who works on `key` off until the result is dropped.
    pub(crate) fn lock(&self, key: Digest) -> Result<File, BakeError> {
        Ok(self.layout.lock(&key.hex())?)
    }
}

fn key_name(key: Digest) -> String {
    format!("keys/{}", key.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_with_cache(dir.path().join("store"), dir.path().join("cache"));
        (dir, store.unwrap())
    }

    #[test]
    fn a_name_leads_to_its_digest_until_it_is_removed() {
        let (_dir, store) = store();
        let digest = store.layout.put(b"manifest").unwrap().digest;
        store.set_name("web", digest).unwrap();
        assert_eq!(store.digest("web").unwrap(), digest);
        assert_eq!(store.names().unwrap(), ["web"]);
        store.remove("web").unwrap();
        assert!(matches!(store.digest("web"), Err(BakeError::NoSuchName { .. })));
        assert!(matches!(store.remove("web"), Err(BakeError::NoSuchName { .. })));
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        let (_dir, store) = store();
        for name in ["", ".", "..", "../x", "a/b", "-x", "a b", &"x".repeat(129)] {
            let result = store.set_name(name, Digest::of(b""));
            assert!(matches!(result, Err(BakeError::InvalidName { .. })), "{name:?}");
        }
    }

    #[test]
    fn what_was_made_is_forgotten_with_its_blob() {
        let (_dir, store) = store();
        let key = Digest::of(b"inputs");
        let made = store.layout.put(b"made").unwrap().digest;
        assert_eq!(store.made(key), None);
        store.remember(key, made).unwrap();
        assert_eq!(store.made(key), Some(made));
        fs::remove_file(store.layout.blob_path(made)).unwrap();
        assert_eq!(store.made(key), None);
    }
}
