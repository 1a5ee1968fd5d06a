//! The one place that talks to the kernel, and the only one with unsafe code.
//!
//! Owns the system call instruction (chosen once, below, by architecture), file descriptors,
//! processes, mounts, the clock and the allocator. Every call's result becomes an `Errno` or
//! a value; the callers decide what an error means.

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod arch;

pub(crate) use arch::slot_device;

pub(crate) mod clock;
pub(crate) mod fd;
pub mod heap;
pub(crate) mod interface;
pub mod memory;
pub(crate) mod mount;
pub(crate) mod namespace;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod socket;
pub(crate) mod tcp;
pub(crate) mod terminal;
pub(crate) mod tree;
pub(crate) mod udp;

use linux_raw_sys::general as nr;

/// The kernel's error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) u16);

macro_rules! errnos {
    ($($name:ident)*) => {
        $(#[expect(clippy::cast_possible_truncation, reason = "error numbers are below 4096")]
        pub(crate) const $name: Errno = Errno(linux_raw_sys::errno::$name as u16);)*
    };
}

impl Errno {
    errnos! { EROFS ESTALE EACCES EAGAIN EALREADY EBUSY ECHILD EEXIST EINTR EINVAL ENOENT ENODEV ENOTDIR
    ENXIO EPIPE ESRCH ETIMEDOUT EPROTO EBADMSG EISDIR EOPNOTSUPP EAFNOSUPPORT EADDRNOTAVAIL
    ECONNABORTED ECONNRESET ECONNREFUSED EINPROGRESS ELOOP }
}

/// The result of a system call.
pub(crate) type Result<T> = core::result::Result<T, Errno>;

/// # Safety
/// As the kernel documents for the call `number`.
unsafe fn call(number: u32, arguments: [usize; 6]) -> Result<usize> {
    // SAFETY: the caller's promise.
    let result = unsafe { arch::syscall(number, arguments) };
    decode(result)
}

fn decode(result: isize) -> Result<usize> {
    match u16::try_from(result.unsigned_abs()) {
        Ok(errno) if (-4095..0).contains(&result) => Err(Errno(errno)),
        _ => Ok(result.cast_unsigned()),
    }
}

/// A file descriptor or flag word as a register.
fn int(value: i32) -> usize {
    (value as isize).cast_unsigned()
}

/// A flag word as a register.
fn flags(value: u32) -> usize {
    value as usize
}

/// Fresh zeroed memory, page-aligned.
fn map(size: usize) -> Result<*mut u8> {
    let protection = nr::PROT_READ | nr::PROT_WRITE;
    let kind = nr::MAP_PRIVATE | nr::MAP_ANONYMOUS;
    let arguments = [0, size, flags(protection), flags(kind), int(-1), 0];
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory
    // that is in use.
    unsafe { call(nr::__NR_mmap, arguments) }.map(|address| address as *mut u8)
}

/// # Safety
/// `size` bytes at `address` are a whole mapping that nobody uses any more.
unsafe fn unmap(address: *mut u8, size: usize) {
    // SAFETY: the caller's promise. The call cannot fail for a whole mapping.
    let _ = unsafe { call(nr::__NR_munmap, [address as usize, size, 0, 0, 0, 0]) };
}
