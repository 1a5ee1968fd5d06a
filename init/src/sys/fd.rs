//! File descriptors: owned, closed on drop, and what is read from and written to them.
//!
//! `ioctl` is a call of our own: that of rustix wants a type for each request, and is unsafe where it
//! is used.

use alloc::vec::Vec;
use core::ffi::CStr;

use linux_raw_sys::general as nr;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{IoSlice, IoSliceMut, ReadWriteFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Gid, Uid};

use super::{Errno, Result, call, flags, int};

/// The most that [`read_file`] reads.
const FILE_LIMIT: usize = 1 << 20;
/// An offset that stands for the file's position.
const AT_POSITION: u64 = u64::MAX;

/// An open file descriptor, closed when dropped. All are close-on-exec.
#[derive(Debug)]
pub(crate) struct Fd(OwnedFd);

impl Fd {
    /// Takes ownership of a descriptor that the kernel just returned.
    pub(super) fn adopt(number: usize) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "descriptors fit")]
        // SAFETY: the descriptor is open, and nobody else has it.
        Self(unsafe { OwnedFd::from_raw_fd(number as i32) })
    }

    /// Takes over a descriptor that a test made.
    #[cfg(test)]
    pub(crate) fn from_owned(fd: std::os::fd::OwnedFd) -> Self {
        use std::os::fd::IntoRawFd;
        // SAFETY: the descriptor is open, and nobody else has it.
        Self(unsafe { OwnedFd::from_raw_fd(fd.into_raw_fd()) })
    }

    /// Its number.
    pub(crate) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    pub(super) fn register(&self) -> usize {
        int(self.number())
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// Opens a file, close-on-exec.
pub(crate) fn open(path: &CStr, how: u32, mode: u32) -> Result<Fd> {
    open_from(CWD, path, how, mode)
}

/// Opens a file in a directory, close-on-exec.
pub(crate) fn open_at(directory: &Fd, name: &CStr, how: u32) -> Result<Fd> {
    open_from(directory.as_fd(), name, how, 0)
}

fn open_from(directory: BorrowedFd<'_>, path: &CStr, how: u32, mode: u32) -> Result<Fd> {
    let how = OFlags::from_bits_retain(how) | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::openat(directory, path, how, Mode::from_raw_mode(mode))?.into())
}

/// Reads into `buffer`; may block.
pub(crate) fn read(fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
    rustix::io::read(fd, buffer)
}

/// Reads a file from its start, whatever its position.
pub(crate) fn read_at_start(fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
    rustix::io::pread(fd, buffer, 0)
}

/// Writes from `bytes`; may block, may write less.
pub(crate) fn write(fd: &Fd, bytes: &[u8]) -> Result<usize> {
    rustix::io::write(fd, bytes)
}

/// Writes to standard error, whatever becomes of it.
pub(crate) fn write_to_console(bytes: &[u8]) {
    // SAFETY: nothing closes standard error.
    let console = unsafe { BorrowedFd::borrow_raw(2) };
    let _ = rustix::io::write(console, bytes);
}

/// Writes all of `bytes` at the start of the file.
pub(crate) fn overwrite(fd: &Fd, bytes: &[u8]) -> Result<()> {
    match rustix::io::pwrite(fd, bytes, 0)? {
        count if count == bytes.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

/// Reads from a pipe without blocking: `EAGAIN` if it is empty, 0 at its end. The child's end stays
/// blocking, and the agent's needs no `fcntl`.
pub(crate) fn read_now(fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
    let mut vectors = [IoSliceMut::new(buffer)];
    rustix::io::preadv2(fd, &mut vectors, AT_POSITION, ReadWriteFlags::NOWAIT)
}

/// Writes as much as fits into a pipe: `EAGAIN` if it is full.
pub(crate) fn write_now(fd: &Fd, bytes: &[u8]) -> Result<usize> {
    let vectors = [IoSlice::new(bytes)];
    rustix::io::pwritev2(fd, &vectors, AT_POSITION, ReadWriteFlags::NOWAIT)
}

/// A pipe: its reading and its writing end.
pub(crate) fn pipe() -> Result<(Fd, Fd)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok((reader.into(), writer.into()))
}

/// Another descriptor for the same open file, close-on-exec.
pub(crate) fn duplicate(fd: &Fd) -> Result<Fd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?.into())
}

/// Makes these standard input, output and error, across `execve` too. One that has its number already
/// stays as it is.
pub(crate) fn make_standard([input, output, error]: [&Fd; 3]) -> Result<()> {
    rustix::stdio::dup2_stdin(input)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(error)
}

/// Gives an open file to another owner.
pub(crate) fn change_owner(fd: &Fd, uid: u32, gid: u32) -> Result<()> {
    rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Sets an open file's mode.
pub(crate) fn change_mode(fd: &Fd, mode: u32) -> Result<()> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))
}

/// An `ioctl` whose argument is a number.
pub(crate) fn ioctl_number(fd: &Fd, request: u32, argument: usize) -> Result<()> {
    // SAFETY: used for requests that take no address.
    unsafe { call(nr::__NR_ioctl, [fd.register(), flags(request), argument, 0, 0, 0]) }.map(drop)
}

/// An `ioctl` whose argument is a structure that the kernel reads and may write.
pub(crate) fn ioctl<T>(fd: &Fd, request: u32, argument: &mut T) -> Result<()> {
    let address = core::ptr::from_mut(argument) as usize;
    // SAFETY: each request is used with the structure that it names.
    unsafe { call(nr::__NR_ioctl, [fd.register(), flags(request), address, 0, 0, 0]) }.map(drop)
}

/// The content of a small file, such as one of /proc or /etc.
pub(crate) fn read_file(path: &CStr) -> Result<Vec<u8>> {
    let file = open(path, nr::O_RDONLY, 0)?;
    let mut content = Vec::new();
    let mut filled = 0;
    while filled < FILE_LIMIT {
        content.resize((filled + 4096).max(content.len()), 0);
        let Some(rest) = content.get_mut(filled..) else { break };
        match read(&file, rest)? {
            0 => break,
            count => filled += count,
        }
        if filled == content.len() {
            content.resize(filled * 2, 0);
        }
    }
    content.truncate(filled.min(FILE_LIMIT));
    Ok(content)
}

/// Makes or replaces a small file.
pub(crate) fn write_file(path: &CStr, content: &[u8], mode: u32) -> Result<()> {
    let file = open(path, nr::O_WRONLY | nr::O_CREAT | nr::O_TRUNC, mode)?;
    write_all(&file, content)
}

/// Writes all of `bytes` to a file.
pub(crate) fn write_all(file: &Fd, bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match write(file, rest) {
            Ok(count) => rest = rest.split_at(count).1,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Writes one value to a file of /proc or /sys.
pub(crate) fn set(path: &CStr, value: &[u8]) -> Result<()> {
    write(&open(path, nr::O_WRONLY, 0)?, value).map(drop)
}
