//! What is done to open files in Linux's own way.

use std::os::fd::OwnedFd;

use rustix::fs::{FallocateFlags, Mode, copy_file_range, fallocate, fchmod, fdatasync, fsync};
use rustix::io::{Errno, IoSlice, ReadWriteFlags, pwritev2};

/// Writes at the end of a file, wherever that is by then.
pub(crate) fn append(file: &OwnedFd, data: &[u8], offset: u64) -> Result<usize, Errno> {
    pwritev2(file, &[IoSlice::new(data)], offset, ReadWriteFlags::APPEND)
}

/// Writes a file to its disk.
pub(crate) fn sync(file: &OwnedFd, only_data: bool) -> Result<(), Errno> {
    if only_data { fdatasync(file) } else { fsync(file) }
}

/// Takes or gives back room for a range, as the mode of a guest's `fallocate` says.
pub(crate) fn allocate(file: &OwnedFd, mode: u32, offset: u64, length: u64) -> Result<(), Errno> {
    let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
    fallocate(file, mode, offset, length)
}

/// Copies bytes from a place in a file to one in another. Returns their number.
pub(crate) fn copy(
    (from, mut at): (&OwnedFd, u64),
    (to, mut onto): (&OwnedFd, u64),
    length: usize,
) -> Result<usize, Errno> {
    copy_file_range(from, Some(&mut at), to, Some(&mut onto), length)
}

/// Sets the mode of an open file.
pub(crate) fn set_open_mode(file: &OwnedFd, mode: u32) -> Result<(), Errno> {
    fchmod(file, Mode::from_bits_truncate(mode))
}
