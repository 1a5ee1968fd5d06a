//! The folder of files that are named by the digest of their content.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use supermachine_formats::{Digest, Hasher};

use crate::Error;

/// A store's blobs.
#[derive(Debug, Clone)]
pub struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    /// The blobs of the store in this folder. Nothing is read yet.
    #[must_use]
    pub fn new(store: &Path) -> Self {
        Self { dir: store.join("blobs").join("sha256") }
    }

    /// Where a blob is, or would be.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Opens a blob. Its content is not checked.
    ///
    /// # Errors
    /// [`Error::MissingBlob`] when it is not there; `what` says what it holds.
    pub fn open(&self, digest: &Digest, what: &'static str) -> Result<File, Error> {
        let path = self.path(digest);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::MissingBlob { what, path },
            _ => Error::Io { operation: "open", path, source },
        })
    }

    /// Checks that a blob's content has the digest that it is named by.
    ///
    /// # Errors
    /// [`Error::DamagedBlob`] with the digest that it has.
    pub fn verify(&self, digest: &Digest, what: &'static str) -> Result<(), Error> {
        let mut file = self.open(digest, what)?;
        let path = self.path(digest);
        let mut hasher = HashWriter(Hasher::new());
        io::copy(&mut file, &mut hasher).map_err(|source| Error::Io {
            operation: "read",
            path: path.clone(),
            source,
        })?;
        let found = hasher.0.finish();
        if found == *digest { Ok(()) } else { Err(Error::DamagedBlob { what, path, found }) }
    }
}

struct HashWriter(Hasher);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
