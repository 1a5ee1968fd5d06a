//! Large buffers.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use super::sealed::is_sealed;

/// A large buffer whose pages are all present, so that writing to it takes no page faults. It has a
/// mapping of its own, which goes back to the host when it is dropped.
#[derive(Debug)]
pub(crate) struct PageBuffer {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: the buffer owns its memory as a `Vec<u8>` does; nothing in it belongs to a thread.
unsafe impl Send for PageBuffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for PageBuffer {}

impl PageBuffer {
    /// A buffer of zeros, of one page at least.
    ///
    /// # Errors
    /// The host has no memory.
    pub(crate) fn new(size: usize) -> io::Result<Self> {
        let size = whole_pages(size)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: the call names no address, so no other mapping is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
        let block = Self { start: mapped(start)?, size };
        block.populate_from(0)?;
        Ok(block)
    }

    /// A buffer with the content of a sealed file, which it shares with the maker of the file. It
    /// must not be made larger.
    ///
    /// # Errors
    /// The file is not sealed, or has another size.
    pub(crate) fn of_sealed(file: &File, size: usize) -> io::Result<Self> {
        if size == 0 || !is_sealed(file) || file.metadata()?.len() != size as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (flags, fd) = (libc::MAP_PRIVATE | libc::MAP_NORESERVE, file.as_raw_fd());
        // SAFETY: the call names no address, so no other mapping is replaced. The seals keep other
        // processes from changing what the buffer shows, and from shortening the file under it.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, fd, 0) };
        Ok(Self { start: mapped(start)?, size })
    }

    /// Makes the buffer larger or smaller. Keeps the content as far as it fits.
    ///
    /// # Errors
    /// The host has no memory. The buffer is unchanged then, or larger.
    pub(crate) fn resize(&mut self, size: usize) -> io::Result<()> {
        let size = whole_pages(size)?;
        let (start, before) = (self.start.as_ptr().cast(), self.size);
        // SAFETY: the range is the buffer's own mapping, to which nothing refers while it is
        // borrowed mutably.
        let start = unsafe { libc::mremap(start, before, size, libc::MREMAP_MAYMOVE) };
        self.start = mapped(start)?;
        self.size = size;
        if before < size { self.populate_from(before) } else { Ok(()) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer's memory is mapped, initialised by the kernel, and not written while
        // it is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the buffer's memory is mapped, initialised by the kernel, and this is the only
        // borrow of it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }

    fn populate_from(&self, from: usize) -> io::Result<()> {
        let start = self.start.as_ptr().wrapping_add(from).cast();
        // SAFETY: the range is within the buffer; populating changes no content.
        match unsafe { libc::madvise(start, self.size - from, libc::MADV_POPULATE_WRITE) } {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                // Kernels before 5.14 populate pages only when they are written.
                error if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
                error => Err(error),
            },
        }
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        // SAFETY: the range is the buffer's own mapping, and nothing borrows it any more. The
        // call fails only for an invalid range.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

fn mapped(start: *mut libc::c_void) -> io::Result<NonNull<u8>> {
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

fn whole_pages(size: usize) -> io::Result<usize> {
    // Every page size that hosts have divides this or is smaller.
    const UNIT: usize = 64 << 10;
    size.max(1).checked_next_multiple_of(UNIT).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}
