//! What is done to open files in macOS's own way.

use std::os::fd::OwnedFd;

use rustix::fs::{fchmod, fcntl_fullfsync, fstat, fsync};
use rustix::io::{Errno, pwrite};

use super::numbers;

/// Writes at the end of a file. No call does both: what a program of the host appends at the same moment may
/// be overwritten. The guest's kernel keeps its own programs apart.
pub(crate) fn append(file: &OwnedFd, data: &[u8], _: u64) -> Result<usize, Errno> {
    let end = u64::try_from(fstat(file)?.st_size).unwrap_or(0);
    pwrite(file, data, end)
}

/// Writes a file to its disk. A guest's `fdatasync` promises as much as its `fsync`, that content is there
/// after a power cut, which on macOS only `F_FULLFSYNC` keeps; `F_BARRIERFSYNC` promises an order alone.
/// A file system without it has `fsync`.
pub(crate) fn sync(file: &OwnedFd, _only_data: bool) -> Result<(), Errno> {
    match fcntl_fullfsync(file) {
        Err(Errno::NOTSUP | Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => fsync(file),
        done => done,
    }
}

/// macOS promises no room: it only grows files, and a guest's programs write zeros instead.
pub(crate) fn allocate(_: &OwnedFd, _mode: u32, _offset: u64, _length: u64) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// macOS copies whole files only. The guest's kernel reads and writes instead.
pub(crate) fn copy(_: (&OwnedFd, u64), _: (&OwnedFd, u64), _: usize) -> Result<usize, Errno> {
    Err(Errno::NOSYS)
}

/// Sets the mode of an open file.
pub(crate) fn set_open_mode(file: &OwnedFd, mode: u32) -> Result<(), Errno> {
    fchmod(file, numbers::mode(mode))
}
