//! Files that processes share. This system cannot seal one: see
//! [`PageBuffer::of_sealed`](super::PageBuffer::of_sealed) for how they are received.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use super::random::fill_random;

/// A new, empty file without a name, for this user only.
///
/// # Errors
/// The folder for temporary files cannot be written, or the host has no descriptors left.
pub(crate) fn memory_file() -> io::Result<File> {
    let mut number = [0; 8];
    fill_random(&mut number)?;
    let name = format!("supermachine-{:016x}", u64::from_ne_bytes(number));
    let path = std::env::temp_dir().join(name);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Marks the end of writing. Without seals, this keeps nobody from writing who has the file.
///
/// # Errors
/// None on this system.
pub(crate) fn seal(_: &File) -> io::Result<()> {
    Ok(())
}
