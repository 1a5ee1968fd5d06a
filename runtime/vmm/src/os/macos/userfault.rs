//! Page faults served by this process: the system has no such thing, so no value of this exists.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vm_memory::MmapRegion;

/// Reports page faults. There is none.
#[derive(Debug)]
pub(crate) enum Userfault {}

impl Userfault {
    /// Opens one.
    ///
    /// # Errors
    /// Always [`io::ErrorKind::Unsupported`].
    pub(crate) fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Opens one, for [`map_singly`](Self::map_singly) only.
    ///
    /// # Errors
    /// Always [`io::ErrorKind::Unsupported`].
    pub(crate) fn open_for_single_pages() -> io::Result<Self> {
        Self::open()
    }

    pub(crate) fn watch(&self, _: &MmapRegion) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn map_singly(&self, _: &MmapRegion) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn forget(&self, _: &MmapRegion) {
        match *self {}
    }

    pub(crate) fn next_fault(&self) -> io::Result<Option<u64>> {
        match *self {}
    }

    pub(crate) fn put(&self, _: &MmapRegion, _: u64, _: &[u8]) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn put_zeros(&self, _: &MmapRegion, _: u64, _: u64) -> io::Result<()> {
        match *self {}
    }
}

impl AsRawFd for Userfault {
    fn as_raw_fd(&self) -> RawFd {
        match *self {}
    }
}
