//! What is where in guest memory: the terms in which a boot protocol answers.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::error::BootError;

/// A kernel in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Its first byte's address.
    pub(super) start: u64,
    /// The address behind all that it uses.
    pub(super) end: u64,
    /// Where it starts to run.
    pub(super) entry: u64,
}

/// What is in guest memory besides the kernel.
#[derive(Debug)]
pub(super) struct Placed {
    /// The ranges written, as addresses and sizes.
    pub(super) written: Vec<(u64, u64)>,
    /// The first vCPU's entry.
    pub(super) entry: Entry,
}

/// Where the first vCPU starts, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// The address of its first instruction.
    pub(super) address: u64,
    /// The address of its boot parameters or device tree.
    pub(super) parameters: u64,
}

/// Writes parts to their addresses, and returns the ranges.
pub(super) fn write(
    memory: &GuestMemoryMmap<()>,
    parts: &[(&'static str, u64, &[u8])],
) -> Result<Vec<(u64, u64)>, BootError> {
    let write = |&(what, address, bytes): &(&'static str, u64, &[u8])| {
        memory
            .write_slice(bytes, GuestAddress(address))
            .map_err(|source| BootError::Memory { what, source })?;
        Ok((address, bytes.len() as u64))
    };
    parts.iter().map(write).collect()
}

/// The memory ends before a part that begins at this address.
pub(super) fn no_room(what: &'static str, address: u64) -> BootError {
    let source = GuestMemoryError::InvalidGuestAddress(GuestAddress(address));
    BootError::Memory { what, source }
}
