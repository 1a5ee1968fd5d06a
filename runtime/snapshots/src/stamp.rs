//! Stamps: they show that a checked file is unchanged, without another read.
//!
//! A stamp records a file's identity, size and times when it was checked. A write changes the
//! times, and the file is made again. Stamps guard against damage, not against an attacker who can
//! write to the user's own files.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use supermachine_vmm::fill_random;

/// The device, inode, size, and times of last write and last change.
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

/// Writes a small file atomically: readers see the old or the new content, never a part.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<(), Error> {
    let io_error = |operation| move |source| Error::Io { operation, path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(io_error("create the folder of"))?;
    let temporary = temporary_beside(path).map_err(io_error("name a temporary file for"))?;
    let result = write_new(&temporary, content).and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // A leftover temporary file is harmless.
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(io_error("write"))
}

/// The suffix of incomplete files.
pub(crate) const TEMPORARY: &str = ".tmp";

/// A unique name in the same folder. A process id would not do: ids repeat, in containers at each
/// start, and a killed process leaves files.
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
