//! The cache of downloaded blobs: files named by the SHA-256 of their content.
//!
//! Any number of processes may use the folder at once. Only complete and verified blobs appear in it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use supermachine_formats::{Digest, Hasher};
use supermachine_snapshots::pack::{self, BlobDir, Descriptor, remove_leftovers};

use super::super::error::{Document, Error};
use super::super::manifest::MAX_DOCUMENT;

/// How many bytes of a blob are read at a time.
const PIECE: usize = 256 << 10;

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
    blobs: BlobDir,
}

impl BlobStore {
    /// Opens the cache in `dir`, creating it if it does not exist.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be created.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let blobs = BlobDir::open(dir)?;
        // Also removes leftovers whose names have no ending.
        remove_leftovers(&blobs.temporary_dir(), "");
        Ok(Self { blobs })
    }

    /// The folder of the cache.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.blobs.dir()
    }

    /// Protects blobs from a sweep until the result is dropped.
    ///
    /// # Errors
    /// [`Error::Io`] if the lock cannot be taken.
    pub fn hold(&self) -> Result<File, Error> {
        let path = self.dir().join("sweep.lock");
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        file.lock_shared().map_err(Error::io("lock", path))?;
        Ok(file)
    }

    /// The layers in the cache and their sizes: all blobs except manifests, indexes and configs.
    pub(crate) fn layers(&self) -> Result<Vec<(PathBuf, u64)>, Error> {
        let folder = self.dir().join("blobs/sha256");
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(Error::io("read", &folder))? {
            let path = entry.map_err(Error::io("read", &folder))?.path();
            // Another process may have removed it.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_file() && !is_document(&path, metadata.len()) {
                found.push((path, metadata.len()));
            }
        }
        Ok(found)
    }

    /// Removes all layers, unless another process protects blobs. Returns what it removed.
    pub(crate) fn sweep_layers(&self) -> Result<Vec<(PathBuf, u64)>, Error> {
        let path = self.dir().join("sweep.lock");
        let lock = File::create(&path).map_err(Error::io("create", &path))?;
        if lock.try_lock().is_err() {
            return Ok(Vec::new());
        }
        let layers = self.layers()?;
        for (path, _) in &layers {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(layers)
    }

    /// Where the blob is, or would be.
    #[must_use]
    pub fn path(&self, digest: Digest) -> PathBuf {
        self.blobs.path(digest)
    }

    /// Whether the blob exists and has `size` bytes. Does not read it.
    #[must_use]
    pub fn contains(&self, digest: Digest, size: u64) -> bool {
        fs::symlink_metadata(self.path(digest))
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
    }

    /// Starts a new blob.
    ///
    /// # Errors
    /// [`Error::Io`] if no temporary file can be created.
    pub fn writer(&self) -> Result<BlobWriter, Error> {
        Ok(BlobWriter { inner: self.blobs.writer()? })
    }

    /// Writes a blob in one go, unless it exists.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn put(&self, content: &[u8]) -> Result<Digest, Error> {
        Ok(self.blobs.put(content)?.digest)
    }

    /// Reads and verifies a blob of at most `limit` bytes; `None` if it does not exist. Removes a damaged
    /// blob.
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
            self.remove(digest)?;
            return Err(Error::DigestMismatch { digest, found });
        }
        Ok(Some(content))
    }

    /// Verifies those of `blobs`, given with their sizes, that are in the cache. Returns the damaged ones,
    /// each with the digest of its content.
    pub(crate) fn damaged(&self, blobs: &[(Digest, u64)]) -> Result<Vec<(Digest, Digest)>, Error> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(Digest, Digest)>, Error> {
            let mut damaged = Vec::new();
            while let Some((digest, size)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.contains(*digest, *size) {
                    let found = self.digest_of(*digest)?;
                    damaged.extend((found != *digest).then_some((*digest, found)));
                }
            }
            Ok(damaged)
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                (1..threads.min(blobs.len())).map(|_| scope.spawn(work)).collect();
            let mut damaged = work()?;
            for worker in workers {
                let found = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                damaged.extend(found?);
            }
            Ok(damaged)
        })
    }

    /// The digest of the content stored as `digest`.
    fn digest_of(&self, digest: Digest) -> Result<Digest, Error> {
        let path = self.path(digest);
        let mut file = File::open(&path).map_err(Error::io("open", &path))?;
        let (mut hasher, mut piece) = (Hasher::new(), vec![0; PIECE]);
        loop {
            match file.read(&mut piece).map_err(Error::io("read", &path))? {
                0 => return Ok(hasher.finish()),
                length => hasher.update(&piece[..length]),
            }
        }
    }

    /// Removes a blob, if it exists.
    pub(crate) fn remove(&self, digest: Digest) -> Result<(), Error> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Creates an unnamed file on the file system of the blobs.
    pub(crate) fn scratch_file(&self) -> Result<File, Error> {
        let tmp = self.tmp_dir();
        tempfile::tempfile_in(&tmp).map_err(Error::io("create a file in", tmp))
    }

    /// Creates a file on the file system of the blobs, which no other process takes for a leftover.
    pub(crate) fn named_scratch_file(&self) -> Result<tempfile::NamedTempFile, Error> {
        let tmp = self.tmp_dir();
        let file = tempfile::Builder::new().prefix("archive-").tempfile_in(&tmp);
        let file = file.map_err(Error::io("create a file in", &tmp))?;
        file.as_file().lock().map_err(Error::io("lock", file.path()))?;
        Ok(file)
    }

    /// Replaces a small file of the cache. Readers see the old or the new content.
    pub(crate) fn replace(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        Ok(self.blobs.replace(name, content)?)
    }

    fn tmp_dir(&self) -> PathBuf {
        self.blobs.temporary_dir()
    }
}

/// Whether a blob is a manifest, an index or a config: small JSON.
fn is_document(path: &Path, size: u64) -> bool {
    size <= MAX_DOCUMENT
        && fs::read(path)
            .is_ok_and(|content| serde_json::from_slice::<serde::de::IgnoredAny>(&content).is_ok())
}

/// Writes a blob. Dropped without a commit, it leaves nothing behind.
#[derive(Debug)]
pub struct BlobWriter {
    inner: pack::BlobWriter,
}

impl BlobWriter {
    /// Appends `content`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written, as when the disk is full.
    pub fn write(&mut self, content: &[u8]) -> Result<(), Error> {
        Ok(self.inner.write(content)?)
    }

    /// Discards what was written, to start over.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be emptied.
    pub fn restart(&mut self) -> Result<(), Error> {
        Ok(self.inner.restart()?)
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.inner.written()
    }

    /// Verifies the content and stores it as `digest`.
    ///
    /// # Errors
    /// [`Error::SizeMismatch`], [`Error::DigestMismatch`], [`Error::Io`]; then nothing is left.
    pub fn commit(self, digest: Digest, size: u64) -> Result<(), Error> {
        Ok(self.inner.commit_as("blob", &Descriptor { digest, size })?)
    }

    /// Stores the content under its own digest.
    ///
    /// # Errors
    /// [`Error::Io`]; then nothing is left.
    pub fn commit_unnamed(self) -> Result<(Digest, u64), Error> {
        let Descriptor { digest, size } = self.inner.commit()?;
        Ok((digest, size))
    }

    /// The digest of the content so far.
    pub(crate) fn digest(&self) -> Digest {
        self.inner.digest()
    }
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
        let written = fs::read_dir(store.tmp_dir()).unwrap().map(|entry| entry.unwrap().path());
        let alive_path = written.into_iter().find(|p| *p != dead && *p != young).unwrap();
        age(&alive_path).unwrap();
        BlobStore::open(store.dir()).unwrap();
        assert!(!dead.exists());
        assert!(young.exists());
        assert!(alive_path.exists());
        drop(alive);
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
