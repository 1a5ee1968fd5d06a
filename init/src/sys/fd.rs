//! File descriptors: owned, closed on drop, and what is read from and written to them.

use alloc::vec::Vec;
use core::ffi::{CStr, c_void};

use linux_raw_sys::general as nr;

use super::{Errno, Result, call, flags, int};

/// The most that [`read_file`] reads.
const FILE_LIMIT: usize = 1 << 20;

/// An open file descriptor, closed when dropped. All are close-on-exec.
#[derive(Debug)]
pub(crate) struct Fd(i32);

impl Fd {
    /// Takes ownership of a descriptor that the kernel just returned.
    pub(super) fn adopt(number: usize) -> Self {
        Self(i32::try_from(number).unwrap_or(-1))
    }

    /// Takes over a descriptor that a test made.
    #[cfg(test)]
    pub(crate) fn from_owned(fd: std::os::fd::OwnedFd) -> Self {
        use std::os::fd::IntoRawFd;
        Self(fd.into_raw_fd())
    }

    /// Its number.
    pub(crate) fn number(&self) -> i32 {
        self.0
    }

    pub(super) fn register(&self) -> usize {
        int(self.0)
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: the descriptor is owned, so that nobody else uses the number.
        let _ = unsafe { call(nr::__NR_close, [self.register(), 0, 0, 0, 0, 0]) };
    }
}

/// Opens a file, close-on-exec.
pub(crate) fn open(path: &CStr, how: u32, mode: u32) -> Result<Fd> {
    open_from(int(nr::AT_FDCWD), path, how, mode)
}

/// Opens a file in a directory, close-on-exec.
pub(crate) fn open_at(directory: &Fd, name: &CStr, how: u32) -> Result<Fd> {
    open_from(directory.register(), name, how, 0)
}

fn open_from(directory: usize, path: &CStr, how: u32, mode: u32) -> Result<Fd> {
    let how = flags(how | nr::O_CLOEXEC | nr::O_NOCTTY);
    let arguments = [directory, path.as_ptr() as usize, how, flags(mode), 0, 0];
    // SAFETY: the path is a terminated string that outlives the call.
    unsafe { call(nr::__NR_openat, arguments) }.map(Fd::adopt)
}

/// Reads into `buffer`; may block.
pub(crate) fn read(fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
    let address = buffer.as_mut_ptr() as usize;
    // SAFETY: the kernel writes at most the buffer's length into it.
    unsafe { call(nr::__NR_read, [fd.register(), address, buffer.len(), 0, 0, 0]) }
}

/// Reads a file from its start, whatever its position.
pub(crate) fn read_at_start(fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
    let address = buffer.as_mut_ptr() as usize;
    // SAFETY: the kernel writes at most the buffer's length into it.
    unsafe { call(nr::__NR_pread64, [fd.register(), address, buffer.len(), 0, 0, 0]) }
}

/// Writes from `bytes`; may block, may write less.
pub(crate) fn write(fd: &Fd, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the kernel only reads the slice.
    unsafe { call(nr::__NR_write, [fd.register(), bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) }
}

/// Writes to standard error, whatever becomes of it.
pub(crate) fn write_to_console(bytes: &[u8]) {
    // SAFETY: the kernel only reads the slice.
    let _ = unsafe { call(nr::__NR_write, [2, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) };
}

/// Writes all of `bytes` at the start of the file.
pub(crate) fn overwrite(fd: &Fd, bytes: &[u8]) -> Result<()> {
    let arguments = [fd.register(), bytes.as_ptr() as usize, bytes.len(), 0, 0, 0];
    // SAFETY: the kernel only reads the slice.
    match unsafe { call(nr::__NR_pwrite64, arguments) } {
        Ok(count) if count == bytes.len() => Ok(()),
        Ok(_) => Err(Errno(5)),
        Err(errno) => Err(errno),
    }
}

#[repr(C)]
struct Vector {
    base: *const c_void,
    length: usize,
}

/// Reads from a pipe without blocking: `EAGAIN` if it is empty, 0 at its end. The child's end stays
/// blocking, and the agent's needs no `fcntl`.
pub(crate) fn read_now(fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
    let vector = Vector { base: buffer.as_mut_ptr().cast(), length: buffer.len() };
    // SAFETY: one vector, which the kernel fills up to its length.
    unsafe { call(nr::__NR_preadv2, now(fd, &vector)) }
}

/// Writes as much as fits into a pipe: `EAGAIN` if it is full.
pub(crate) fn write_now(fd: &Fd, bytes: &[u8]) -> Result<usize> {
    let vector = Vector { base: bytes.as_ptr().cast(), length: bytes.len() };
    // SAFETY: one vector, which the kernel only reads.
    unsafe { call(nr::__NR_pwritev2, now(fd, &vector)) }
}

/// One vector, at the file's position (an offset of -1 in both halves), without waiting.
fn now(fd: &Fd, vector: &Vector) -> [usize; 6] {
    let address = core::ptr::from_ref(vector) as usize;
    [fd.register(), address, 1, usize::MAX, usize::MAX, flags(nr::RWF_NOWAIT)]
}

/// A pipe: its reading and its writing end.
pub(crate) fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [0_i32; 2];
    let address = ends.as_mut_ptr() as usize;
    // SAFETY: the kernel writes two descriptors into the array.
    unsafe { call(nr::__NR_pipe2, [address, flags(nr::O_CLOEXEC), 0, 0, 0, 0]) }?;
    let [reader, writer] = ends;
    Ok((Fd(reader), Fd(writer)))
}

/// Another descriptor for the same open file, close-on-exec.
pub(crate) fn duplicate(fd: &Fd) -> Result<Fd> {
    let arguments = [fd.register(), flags(nr::F_DUPFD_CLOEXEC), 3, 0, 0, 0];
    // SAFETY: no memory is involved.
    unsafe { call(nr::__NR_fcntl, arguments) }.map(Fd::adopt)
}

/// Makes `fd` available as `number`, across `execve` too.
pub(crate) fn duplicate_to(fd: &Fd, number: i32) -> Result<()> {
    // SAFETY: only the agent's standard descriptors are replaced, which nothing owns.
    unsafe { call(nr::__NR_dup3, [fd.register(), int(number), 0, 0, 0, 0]) }.map(drop)
}

/// Gives an open file to another owner.
pub(crate) fn change_owner(fd: &Fd, uid: u32, gid: u32) -> Result<()> {
    let arguments = [fd.register(), flags(uid), flags(gid), 0, 0, 0];
    // SAFETY: no memory is involved.
    unsafe { call(nr::__NR_fchown, arguments) }.map(drop)
}

/// Sets an open file's mode.
pub(crate) fn change_mode(fd: &Fd, mode: u32) -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe { call(nr::__NR_fchmod, [fd.register(), flags(mode), 0, 0, 0, 0]) }.map(drop)
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
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Writes one value to a file of /proc or /sys.
pub(crate) fn set(path: &CStr, value: &[u8]) -> Result<()> {
    write(&open(path, nr::O_WRONLY, 0)?, value).map(drop)
}
