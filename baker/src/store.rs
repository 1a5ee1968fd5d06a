//! The folder of snapshots: names, the blobs that they lead to, and what was made before.
//!
//! `blobs/sha256/` holds state files, pages and disks, each named by its digest; `names/` one
//! file a snapshot with the digest of its state file; `keys/` remembers which digest a set of
//! inputs gave, so that the same work is not done twice; `locks/` makes those who want the
//! same thing take turns. A name appears only when all that it leads to is there. Any number
//! of processes may use the folder at once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use supermachine::Image;
use supermachine::image::{Blobs, default_cache};
use supermachine_formats::Digest;

use crate::BakeError;
use crate::oci::BlobStore;

const MAX_NAME: usize = 128;

/// A folder of snapshots.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    blobs: BlobStore,
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
        let dir = dir.into();
        for folder in ["names", "keys", "locks"] {
            let path = dir.join(folder);
            fs::create_dir_all(&path).map_err(BakeError::io("create", path))?;
        }
        Ok(Self { blobs: BlobStore::open(&dir)?, dir, cache: cache.into() })
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of all snapshots, sorted.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, BakeError> {
        let path = self.dir.join("names");
        let entries = fs::read_dir(&path).map_err(BakeError::io("read", &path))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(BakeError::io("read", &path))?;
            if let Some(name) = entry.file_name().to_str().filter(|name| is_name(name)) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The file that names a snapshot: what [`Image::from_snapshot`] takes.
    ///
    /// # Errors
    /// The name has no legal form.
    pub fn name_path(&self, name: &str) -> Result<PathBuf, BakeError> {
        if is_name(name) {
            Ok(self.dir.join("names").join(name))
        } else {
            Err(BakeError::InvalidName { name: name.to_owned() })
        }
    }

    /// The digest that a name leads to.
    ///
    /// # Errors
    /// [`BakeError::NoSuchName`], or the file cannot be read or holds something else.
    pub fn digest(&self, name: &str) -> Result<Digest, BakeError> {
        let path = self.name_path(name)?;
        let no_such_name =
            || BakeError::NoSuchName { name: name.to_owned(), store: self.dir.clone() };
        let not_a_reference = || {
            let source = supermachine::Error::NotAReference { path: path.clone() };
            BakeError::machine("opening of the snapshot")(source)
        };
        match fs::read_to_string(&path) {
            Ok(text) => text.trim_end().parse().map_err(|_| not_a_reference()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(not_a_reference()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(no_such_name()),
            Err(error) => Err(BakeError::io("read", &path)(error)),
        }
    }

    /// Opens a snapshot by name.
    ///
    /// # Errors
    /// There is none of this name, or it is damaged.
    pub fn image(&self, name: &str) -> Result<Image, BakeError> {
        self.open_image(self.digest(name)?)
    }

    /// Forgets a name. Blobs stay: other snapshots may share them.
    ///
    /// # Errors
    /// [`BakeError::NoSuchName`], or the file cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), BakeError> {
        let path = self.name_path(name)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(BakeError::NoSuchName { name: name.to_owned(), store: self.dir.clone() })
            }
            Err(error) => Err(BakeError::io("remove", path)(error)),
        }
    }

    /// Bytes of a blob.
    #[must_use]
    pub fn blob_size(&self, digest: Digest) -> Option<u64> {
        fs::metadata(self.blobs.path(digest)).ok().map(|metadata| metadata.len())
    }

    pub(crate) fn set_name(&self, name: &str, digest: Digest) -> Result<(), BakeError> {
        self.write_digest(&self.name_path(name)?, digest)
    }

    pub(crate) fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    pub(crate) fn open_image(&self, digest: Digest) -> Result<Image, BakeError> {
        Image::open(&Blobs::new(&self.dir), digest, &self.cache)
            .map_err(BakeError::machine("opening of the snapshot"))
    }

    /// What a set of inputs gave before, if its blob is still there.
    pub(crate) fn made(&self, key: Digest) -> Option<Digest> {
        let text = fs::read_to_string(self.key_path(key)).ok()?;
        let digest = text.trim_end().parse().ok()?;
        self.blobs.path(digest).is_file().then_some(digest)
    }

    /// Remembers what a set of inputs gave.
    pub(crate) fn remember(&self, key: Digest, made: Digest) -> Result<(), BakeError> {
        self.write_digest(&self.key_path(key), made)
    }

    /// Holds everybody else who works on `key` off until the result is dropped.
    pub(crate) fn lock(&self, key: Digest) -> Result<File, BakeError> {
        let path = self.dir.join("locks").join(key.hex());
        let file = File::create(&path).map_err(BakeError::io("create", &path))?;
        file.lock().map_err(BakeError::io("lock", &path))?;
        Ok(file)
    }

    fn key_path(&self, key: Digest) -> PathBuf {
        self.dir.join("keys").join(key.hex())
    }

    fn write_digest(&self, path: &Path, digest: Digest) -> Result<(), BakeError> {
        let mut file = self.blobs.temp_file()?;
        io::Write::write_all(&mut file, format!("{digest}\n").as_bytes())
            .map_err(BakeError::io("write", path))?;
        Ok(crate::oci::persist(file, path)?)
    }
}

fn is_name(name: &str) -> bool {
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    let is_legal = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    starts_well && name.len() <= MAX_NAME && name.chars().all(is_legal)
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
        let digest = Digest::of(b"state");
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
        let made = store.blobs().put(b"made").unwrap();
        assert_eq!(store.made(key), None);
        store.remember(key, made).unwrap();
        assert_eq!(store.made(key), Some(made));
        fs::remove_file(store.blobs().path(made)).unwrap();
        assert_eq!(store.made(key), None);
    }
}
