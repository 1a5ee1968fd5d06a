//! How a file that was checked once is known to be unchanged without reading it again.
//!
//! A stamp records a file's identity, size and times at the moment it was checked. Any write
//! to the file moves its times, and then it is checked again. Stamps guard against damage,
//! not against an attacker who can write to the user's own files.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use supermachine_formats::Digest;

use crate::Error;
use crate::machine::fill_random;

/// Stamps of blobs.
#[derive(Debug, Clone)]
pub struct Stamps {
    dir: PathBuf,
}

impl Stamps {
    /// The stamps that are kept in this cache folder.
    #[must_use]
    pub fn new(cache: &Path) -> Self {
        Self { dir: cache.join("verified") }
    }

    /// Whether the blob `digest`, which is `file`, is as it was when it was checked.
    #[must_use]
    pub fn holds(&self, digest: &Digest, file: &File) -> bool {
        let Ok(metadata) = file.metadata() else { return false };
        fs::read_to_string(self.path(digest)).is_ok_and(|text| text == stamp([&metadata]))
    }

    /// Records that the blob `digest`, which is `file`, has just been checked.
    ///
    /// # Errors
    /// The stamp cannot be written.
    pub fn record(&self, digest: &Digest, file: &File) -> Result<(), Error> {
        let path = self.path(digest);
        let metadata = file.metadata().map_err(|source| Error::Io {
            operation: "examine",
            path: path.clone(),
            source,
        })?;
        write_atomically(&path, stamp([&metadata]).as_bytes())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }
}

/// One line a file: device, inode, size, times of last write and last change.
pub(super) fn stamp<'a>(files: impl IntoIterator<Item = &'a Metadata>) -> String {
    let mut text = String::new();
    for file in files {
        let line = format_args!(
            "{} {} {} {}.{:09} {}.{:09}\n",
            file.dev(),
            file.ino(),
            file.size(),
            file.mtime(),
            file.mtime_nsec(),
            file.ctime(),
            file.ctime_nsec()
        )
        .to_string();
        text.push_str(&line);
    }
    text
}

/// Writes a small file so that readers see the old one or the new one, never half.
pub(super) fn write_atomically(path: &Path, content: &[u8]) -> Result<(), Error> {
    let io_error = |operation| move |source| Error::Io { operation, path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(io_error("create the folder of"))?;
    let temporary = temporary_beside(path).map_err(io_error("name a temporary file for"))?;
    let result = write_new(&temporary, content).and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // What is left is only a stray temporary file.
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(io_error("write"))
}

/// The end of the names of files that are not complete yet.
pub(super) const TEMPORARY: &str = ".tmp";

/// A name in the same folder that nothing else uses. Process numbers come again, in
/// containers even at each start, so they would not do beside what a killed process left.
pub(super) fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let mut number = [0; 8];
    fill_random(&mut number)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}{TEMPORARY}", u64::from_ne_bytes(number)));
    Ok(path.with_file_name(name))
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}
