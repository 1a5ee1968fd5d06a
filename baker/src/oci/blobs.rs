//! The cache of blobs: files named by the SHA-256 of their content.
//!
//! Owns `blobs/sha256/<hex>` and `tmp/` below one folder. Any number of processes may use the
//! folder at once. A blob appears under its name only whole and verified, by a rename; what
//! a crashed process left in `tmp/` is told by its missing lock and removed.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use supermachine_formats::{Digest, Hasher};
use supermachine_snapshots::pack::remove_leftovers;
use tempfile::NamedTempFile;

use super::error::{Document, Error};

/// A folder of verified blobs.
///
/// ```
/// use supermachine_baker::oci::BlobStore;
/// use supermachine_formats::Digest;
///
/// let dir = tempfile::tempdir()?;
/// let blobs = BlobStore::open(dir.path())?;
/// let mut writer = blobs.writer()?;
/// writer.write(b"hello")?;
/// writer.commit(Digest::of(b"hello"), 5)?;
/// assert!(blobs.contains(Digest::of(b"hello"), 5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct BlobStore {
    dir: PathBuf,
}

impl BlobStore {
    /// Opens the cache in `dir`, making it if it is not there.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be made.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let store = Self { dir: dir.into() };
        for folder in [store.dir.join("blobs/sha256"), store.tmp_dir()] {
            fs::create_dir_all(&folder).map_err(Error::io("create", folder))?;
        }
        remove_leftovers(&store.tmp_dir(), "");
        Ok(store)
    }

    /// The folder that holds everything.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the blob is, or would be.
    #[must_use]
    pub fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// Whether the blob is there with `size` bytes.
    #[must_use]
    pub fn contains(&self, digest: Digest, size: u64) -> bool {
        fs::symlink_metadata(self.path(digest))
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
    }

    /// Starts a new blob.
    ///
    /// # Errors
    /// [`Error::Io`] if no temporary file can be made.
    pub fn writer(&self) -> Result<BlobWriter, Error> {
        let file = self.temp_file()?;
        Ok(BlobWriter { file, hasher: Hasher::new(), written: 0, store: self.clone() })
    }

    /// Writes a blob in one go, unless it is there already.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn put(&self, content: &[u8]) -> Result<Digest, Error> {
        let mut writer = self.writer()?;
        writer.write(content)?;
        writer.commit_unnamed().map(|(digest, _)| digest)
    }

    /// Reads a blob of at most `limit` bytes and verifies its digest; `None` if it is not
    /// there. A blob that turns out damaged is removed.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::DigestMismatch`], [`Error::Io`].
    pub fn read_small(
        &self,
        digest: Digest,
        document: Document,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", path)(error)),
        };
        let mut content = Vec::new();
        file.take(limit.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(Error::io("read", &path))?;
        if u64::try_from(content.len()).unwrap_or(u64::MAX) > limit {
            return Err(Error::TooLarge { document, limit });
        }
        let found = Digest::of(&content);
        if found != digest {
            fs::remove_file(&path).map_err(Error::io("remove", path))?;
            return Err(Error::DigestMismatch { digest, found });
        }
        Ok(Some(content))
    }

    /// A locked temporary file on the file system of the blobs.
    pub(crate) fn temp_file(&self) -> Result<NamedTempFile, Error> {
        let tmp = self.tmp_dir();
        let file = tempfile::Builder::new()
            .prefix("blob-")
            .tempfile_in(&tmp)
            .map_err(Error::io("create a file in", &tmp))?;
        file.as_file().lock().map_err(Error::io("lock", file.path()))?;
        Ok(file)
    }

    fn tmp_dir(&self) -> PathBuf {
        self.dir.join("tmp")
    }
}

/// A blob in the making: dropped without a commit, it leaves nothing behind.
#[derive(Debug)]
pub struct BlobWriter {
    file: NamedTempFile,
    hasher: Hasher,
    written: u64,
    store: BlobStore,
}

impl BlobWriter {
    /// Appends `content`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written, as when the disk is full.
    pub fn write(&mut self, content: &[u8]) -> Result<(), Error> {
        self.file.write_all(content).map_err(Error::io("write", self.file.path()))?;
        self.hasher.update(content);
        self.written =
            self.written.saturating_add(u64::try_from(content.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Throws away what was written, to start again.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be emptied.
    pub fn restart(&mut self) -> Result<(), Error> {
        let file = self.file.as_file_mut();
        file.set_len(0)
            .and_then(|()| file.rewind())
            .map_err(Error::io("truncate", self.file.path()))?;
        self.hasher = Hasher::new();
        self.written = 0;
        Ok(())
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Verifies what was written and makes it the blob `digest`.
    ///
    /// # Errors
    /// [`Error::SizeMismatch`], [`Error::DigestMismatch`], [`Error::Io`]; then nothing is left.
    pub fn commit(self, digest: Digest, size: u64) -> Result<(), Error> {
        if self.written != size {
            return Err(Error::SizeMismatch { digest, expected: size, found: self.written });
        }
        let found = self.hasher.clone().finish();
        if found != digest {
            return Err(Error::DigestMismatch { digest, found });
        }
        self.commit_unnamed().map(drop)
    }

    /// Makes what was written a blob, whatever its digest turns out to be.
    ///
    /// # Errors
    /// [`Error::Io`]; then nothing is left.
    pub fn commit_unnamed(self) -> Result<(Digest, u64), Error> {
        let digest = self.hasher.finish();
        let path = self.store.path(digest);
        persist(self.file, &path)?;
        Ok((digest, self.written))
    }

    /// The digest of what is written so far.
    pub(crate) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }
}

/// Gives a finished temporary file its name, so that it is there whole even after a crash.
pub(crate) fn persist(file: NamedTempFile, path: &Path) -> Result<(), Error> {
    file.as_file().sync_all().map_err(Error::io("sync", file.path()))?;
    file.persist(path).map_err(|error| Error::io("create", path)(error.error))?;
    let Some(folder) = path.parent() else { return Ok(()) };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (tempfile::TempDir, BlobStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path()).unwrap();
        (dir, store)
    }

    fn files(store: &BlobStore) -> (usize, usize) {
        let count = |path: PathBuf| fs::read_dir(path).unwrap().count();
        (count(store.dir().join("blobs/sha256")), count(store.tmp_dir()))
    }

    #[test]
    fn writer_with_right_content_makes_a_blob() {
        let (_dir, store) = open();
        let digest = Digest::of(b"abc");
        let mut writer = store.writer().unwrap();
        writer.write(b"xyz").unwrap();
        writer.restart().unwrap();
        writer.write(b"a").unwrap();
        writer.write(b"bc").unwrap();
        writer.commit(digest, 3).unwrap();
        assert!(store.contains(digest, 3));
        assert!(!store.contains(digest, 4));
        assert_eq!(fs::read(store.path(digest)).unwrap(), b"abc");
        assert_eq!(files(&store), (1, 0));
    }

    #[test]
    fn writer_with_wrong_content_leaves_nothing() {
        let (_dir, store) = open();
        let wanted = Digest::of(b"abc");
        for (content, size) in [(b"abd".as_slice(), 3), (b"abc", 4), (b"", 3)] {
            let mut writer = store.writer().unwrap();
            writer.write(content).unwrap();
            let error = writer.commit(wanted, size).unwrap_err();
            match error {
                Error::DigestMismatch { digest, found } => {
                    assert_eq!((digest, found), (wanted, Digest::of(content)));
                }
                Error::SizeMismatch { digest, expected, .. } => {
                    assert_eq!((digest, expected), (wanted, size));
                }
                other => panic!("{other:?}"),
            }
        }
        drop(store.writer().unwrap());
        assert_eq!(files(&store), (0, 0));
    }

    #[test]
    fn read_small_checks_size_and_digest() {
        let (_dir, store) = open();
        let digest = store.put(b"hello").unwrap();
        let read = |limit| store.read_small(digest, Document::Manifest, limit);
        assert_eq!(read(5).unwrap().unwrap(), b"hello");
        assert!(matches!(read(4), Err(Error::TooLarge { limit: 4, .. })));
        fs::write(store.path(digest), b"hellO").unwrap();
        assert!(matches!(read(5), Err(Error::DigestMismatch { .. })));
        assert_eq!(read(5).unwrap(), None);
    }

    #[test]
    fn open_removes_only_old_unlocked_leftovers() {
        let (_dir, store) = open();
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        let age = |path: &Path| File::options().write(true).open(path).unwrap().set_modified(old);
        let (dead, young) = (store.tmp_dir().join("blob-dead"), store.tmp_dir().join("blob-young"));
        fs::write(&dead, b"x").unwrap();
        age(&dead).unwrap();
        fs::write(&young, b"x").unwrap();
        let alive = store.writer().unwrap();
        age(alive.file.path()).unwrap();
        BlobStore::open(store.dir()).unwrap();
        assert!(!dead.exists());
        assert!(young.exists());
        assert!(alive.file.path().exists());
    }

    #[test]
    fn blob_written_by_many_at_once_is_whole() {
        let (_dir, store) = open();
        let content = vec![7; 1 << 20];
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| BlobStore::open(store.dir()).unwrap().put(&content).unwrap());
            }
        });
        assert!(store.contains(Digest::of(&content), 1 << 20));
        assert_eq!(files(&store), (1, 0));
    }
}
