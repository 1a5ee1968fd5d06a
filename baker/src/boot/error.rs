//! Why a boot snapshot could not be laid out.

use std::io;

/// Why a boot snapshot could not be laid out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The machine's size is out of range.
    #[error("{what} must be {least} to {most}, not {found}")]
    Size {
        /// The quantity, with its unit.
        what: &'static str,
        /// The minimum.
        least: u64,
        /// The maximum.
        most: u64,
        /// The size asked for.
        found: u64,
    },
    /// The kernel cannot be booted.
    #[error("guest kernel cannot be loaded: it is not {expected}")]
    Kernel {
        /// The form that this architecture's kernels have.
        expected: &'static str,
    },
    /// A part does not fit into guest memory.
    #[error("{what} does not fit into guest memory")]
    Memory {
        /// The part.
        what: &'static str,
        /// The memory's error.
        source: vm_memory::GuestMemoryError,
    },
    /// The memory image could not be created.
    #[error("memory image cannot be created")]
    Image {
        /// The operating system's error.
        source: io::Error,
    },
}
