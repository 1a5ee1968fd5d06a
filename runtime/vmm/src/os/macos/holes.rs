//! Room that a file gives back, and zeros that take none.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

/// Frees the file's room in a range, which reads as zeros then. The file's length stays.
///
/// # Errors
/// The file system cannot, or only for whole blocks ([`io::ErrorKind::Unsupported`]), or the file
/// cannot be written.
pub(crate) fn punch_hole(file: &File, start: u64, length: u64) -> io::Result<()> {
    let block = file.metadata()?.blksize().max(1);
    if length == 0 {
        return Ok(());
    }
    if !start.is_multiple_of(block) || !length.is_multiple_of(block) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let hole = libc::fpunchhole_t {
        fp_flags: 0,
        reserved: 0,
        fp_offset: start.try_into().map_err(io::Error::other)?,
        fp_length: length.try_into().map_err(io::Error::other)?,
    };
    // SAFETY: the kernel reads one `fpunchhole_t`, which `hole` is.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_PUNCHHOLE, &raw const hole) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOTSUP) => {
                Err(io::ErrorKind::Unsupported.into())
            }
            error => Err(error),
        },
    }
}

/// Makes a range read as zeros, and keeps room for it. No file system can.
///
/// # Errors
/// Always [`io::ErrorKind::Unsupported`]: the caller writes zeros.
pub(crate) fn zero_range(_: &File, _: u64, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
