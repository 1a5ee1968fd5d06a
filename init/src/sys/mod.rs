//! Calls of the kernel, and the only place with unsafe code.
//!
//! Owns file descriptors, processes, mounts, the clock and the allocator. rustix makes most calls, and
//! where one needs nothing else, other modules use it directly. For the few that it does not have, the
//! system call instruction is here (chosen once, below, by architecture). Every call returns an `Errno`
//! or a value; the callers decide what an error means.

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

use core::ptr::null_mut;

pub(crate) use rustix::io::{Errno, Result};
use rustix::mm::{MapFlags, ProtFlags};

/// # Safety
/// As the kernel documents for the call `number`.
unsafe fn call(number: u32, arguments: [usize; 6]) -> Result<usize> {
    // SAFETY: the caller's promise.
    let result = unsafe { arch::syscall(number, arguments) };
    decode(result)
}

fn decode(result: isize) -> Result<usize> {
    match i32::try_from(result) {
        Ok(errno @ -4095..0) => Err(Errno::from_raw_os_error(-errno)),
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
    let (protection, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory
    // that is in use.
    let address = unsafe { rustix::mm::mmap_anonymous(null_mut(), size, protection, kind) }?;
    Ok(address.cast())
}

/// # Safety
/// `size` bytes at `address` are a whole mapping that nobody uses any more.
unsafe fn unmap(address: *mut u8, size: usize) {
    // SAFETY: the caller's promise. The call cannot fail for a whole mapping.
    let _ = unsafe { rustix::mm::munmap(address.cast(), size) };
}
