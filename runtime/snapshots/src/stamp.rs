//! How a file that was checked once is known to be unchanged without reading it again.
//!
//! A stamp records a file's identity, size and times at the moment it was checked. Any write
//! to the file moves its times, and then it is made again. Stamps guard against damage, not
//! against an attacker who can write to the user's own files.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::Error;
use supermachine_vmm::fill_random;

/// Device, inode, size, times of last write and last change.
pub(crate) fn stamp(file: &Metadata) -> String {
    format!(
        "{} {} {} {}.{:09} {}.{:09}",
        file.dev(),
        file.ino(),
        file.size(),
        file.mtime(),
        file.mtime_nsec(),
        file.ctime(),
        file.ctime_nsec()
    )
}

/// Writes a small file so that readers see the old one or the new one, never half.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<(), Error> {
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
pub(crate) const TEMPORARY: &str = ".tmp";

/// A name in the same folder that nothing else uses. Process numbers come again, in
/// containers even at each start, so they would not do beside what a killed process left.
pub(crate) fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
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
