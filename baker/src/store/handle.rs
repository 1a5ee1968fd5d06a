//! The folder of a store: names, keys and locks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use supermachine::Image;
use supermachine::image::default_cache;
use supermachine_formats::Digest;
use supermachine_snapshots::pack::{
    Descriptor, Layout, Manifest, Named, PackError, Source, is_name,
};

use crate::error::{BakeError, InputError, StoreError};

/// A folder of snapshots.
#[derive(Debug, Clone)]
pub struct Store {
    layout: Layout,
    cache: PathBuf,
}

impl Store {
    /// Opens the store in `dir`, creating it if it does not exist. Downloads and mapped forms go to the
    /// user's cache.
    ///
    /// # Errors
    /// The folder cannot be created, or there is no cache folder.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, BakeError> {
        let cache = default_cache().map_err(BakeError::machine("opening of the store"))?;
        Self::open_with_cache(dir, cache)
    }

    /// Opens the store in `dir` with another cache folder.
    ///
    /// # Errors
    /// A folder cannot be created.
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

    /// The digest of the manifest with this name.
    ///
    /// # Errors
    /// [`StoreError::NoSuchName`], or the index cannot be read.
    pub fn digest(&self, name: &str) -> Result<Digest, BakeError> {
        self.check_name(name)?;
        let mut all = self.layout.snapshots()?.into_iter();
        let is_wanted = |named: &Named| named.name.as_deref() == Some(name);
        all.find(is_wanted).map(|named| named.descriptor.digest).ok_or_else(|| {
            BakeError::Store(StoreError::NoSuchName {
                name: name.to_owned(),
                store: self.dir().to_owned(),
            })
        })
    }

    /// Opens a snapshot by name.
    ///
    /// # Errors
    /// There is no snapshot with this name, or it is damaged.
    pub fn image(&self, name: &str) -> Result<Image, BakeError> {
        self.open_image(self.digest(name)?)
    }

    /// Opens a snapshot by the digest of its manifest.
    ///
    /// # Errors
    /// There is no such snapshot, or it is damaged.
    pub fn open_image(&self, digest: Digest) -> Result<Image, BakeError> {
        Image::open(self.source()?, digest, &self.cache)
            .map_err(BakeError::machine("opening of the snapshot"))
    }

    /// Removes a name. Its blobs stay, as other snapshots may share them.
    ///
    /// # Errors
    /// [`StoreError::NoSuchName`], or the index cannot be written.
    pub fn remove(&self, name: &str) -> Result<(), BakeError> {
        self.check_name(name)?;
        if self.layout.remove_name(name)? {
            return Ok(());
        }
        Err(BakeError::Store(StoreError::NoSuchName {
            name: name.to_owned(),
            store: self.dir().to_owned(),
        }))
    }

    /// The size of a blob in bytes.
    #[must_use]
    pub fn blob_size(&self, digest: Digest) -> Option<u64> {
        fs::metadata(self.layout.blob_path(digest)).ok().map(|metadata| metadata.len())
    }

    pub(crate) fn source(&self) -> Result<Source, PackError> {
        self.layout.source()
    }

    /// Refuses an invalid snapshot name.
    pub(crate) fn check_name(&self, name: &str) -> Result<(), BakeError> {
        if is_name(name) {
            Ok(())
        } else {
            Err(BakeError::Input(InputError::InvalidName { name: name.to_owned() }))
        }
    }

    pub(crate) fn set_name(&self, name: &str, digest: Digest) -> Result<(), BakeError> {
        self.check_name(name)?;
        let missing = PackError::MissingBlob { section: "manifest", digest };
        let size = self.blob_size(digest).ok_or(missing)?;
        Ok(self.layout.set_name(name, Descriptor { digest, size })?)
    }

    /// The cached snapshot of a key, if all of its blobs exist.
    pub(crate) fn made_snapshot(&self, key: Digest) -> Option<Digest> {
        let digest = self.made(key)?;
        let manifest = Manifest::read(&self.source().ok()?, digest).ok()?;
        let is_whole = manifest.blobs().all(|blob| self.blob_size(blob.digest) == Some(blob.size));
        is_whole.then_some(digest)
    }

    /// The cached blob of a key, if it exists.
    pub(crate) fn made(&self, key: Digest) -> Option<Digest> {
        let text = fs::read_to_string(self.dir().join(key_name(key))).ok()?;
        let digest = text.trim_end().parse().ok()?;
        self.layout.blob_path(digest).is_file().then_some(digest)
    }

    /// Caches the result of a key.
    pub(crate) fn remember(&self, key: Digest, made: Digest) -> Result<(), BakeError> {
        Ok(self.layout.replace(&key_name(key), format!("{made}\n").as_bytes())?)
    }

    /// Locks `key` until the result is dropped.
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
        assert!(matches!(
            store.digest("web"),
            Err(BakeError::Store(StoreError::NoSuchName { .. }))
        ));
        assert!(matches!(
            store.remove("web"),
            Err(BakeError::Store(StoreError::NoSuchName { .. }))
        ));
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        let (_dir, store) = store();
        for name in ["", ".", "..", "../x", "a/b", "-x", "a b", &"x".repeat(129)] {
            let result = store.set_name(name, Digest::of(b""));
            assert!(
                matches!(result, Err(BakeError::Input(InputError::InvalidName { .. }))),
                "{name:?}"
            );
        }
    }

    #[test]
    fn cached_result_is_gone_with_its_blob() {
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
