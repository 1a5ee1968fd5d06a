//! Room that a file gives back, and zeros that take none.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Frees the file's room in a range, which reads as zeros then. The file's length stays.
///
/// # Errors
/// The file system cannot ([`io::ErrorKind::Unsupported`]), or the file cannot be written.
pub(crate) fn punch_hole(file: &File, start: u64, length: u64) -> io::Result<()> {
    allocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, start, length)
}

/// Makes a range read as zeros, and keeps room for it. The file's length stays.
///
/// # Errors
/// Those of [`punch_hole`], and that the file system is full.
pub(crate) fn zero_range(file: &File, start: u64, length: u64) -> io::Result<()> {
    allocate(file, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, start, length)
}

fn allocate(file: &File, mode: i32, start: u64, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let start = i64::try_from(start).map_err(io::Error::other)?;
    let length = i64::try_from(length).map_err(io::Error::other)?;
    loop {
        // SAFETY: the descriptor is open, and no memory is involved.
        match unsafe { libc::fallocate(file.as_raw_fd(), mode, start, length) } {
            0 => return Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}
