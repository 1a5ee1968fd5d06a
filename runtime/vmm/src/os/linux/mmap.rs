//! Mappings of this process: guest memory, disks, and large buffers.
//!
//! Each function is safe to call with any argument.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, MmapRegion};

use super::sealed::is_sealed;

/// How to populate the pages of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Populate {
    /// As a read does: map the file's pages.
    Read,
    /// As a write does: make private copies.
    Write,
}

/// What the guest may do with a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    ReadOnly,
    ReadWrite,
}

impl Protection {
    fn bits(self) -> i32 {
        match self {
            Self::ReadOnly => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

/// Reserves address space whose pages something else fills in.
///
/// # Errors
/// The mapping fails.
pub(crate) fn reserve(size: u64, protection: Protection) -> io::Result<MmapRegion> {
    MmapRegionBuilder::new(usize::try_from(size).map_err(io::Error::other)?)
        .with_mmap_prot(protection.bits())
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
        .build()
        .map_err(io::Error::other)
}

/// Maps a range of a file, copy-on-write.
///
/// # Errors
/// The file is shorter than the range, or the mapping fails.
pub(crate) fn map_private(
    offset: FileOffset,
    size: u64,
    protection: Protection,
) -> io::Result<MmapRegion> {
    // Touching a mapping past the end of its file raises a fatal signal.
    let end = offset.start().checked_add(size).ok_or(io::ErrorKind::InvalidInput)?;
    if offset.file().metadata()?.len() < end {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let size = usize::try_from(size).map_err(io::Error::other)?;
    MmapRegionBuilder::new(size)
        .with_file_offset(offset)
        .with_mmap_prot(protection.bits())
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_NORESERVE)
        .build()
        .map_err(io::Error::other)
}

/// The size of a page of this host in bytes.
pub(crate) fn host_page_size() -> u64 {
    // SAFETY: the call has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// Rounds a range of bytes to whole pages around it.
fn around(offset: u64, size: u64, page: u64) -> (u64, u64) {
    let start = offset / page * page;
    let end = offset.saturating_add(size);
    (start, end.checked_next_multiple_of(page).unwrap_or(end) - start)
}

/// Populates the host's pages around a range of `region` with one call.
///
/// # Errors
/// The range is outside of the region, or `madvise` fails.
pub(crate) fn populate(
    region: &MmapRegion,
    offset: u64,
    size: u64,
    how: Populate,
) -> io::Result<()> {
    let (offset, size) = around(offset, size, host_page_size());
    let (start, size) = range_within(region, offset, size)?;
    let advice = match how {
        Populate::Read => libc::MADV_POPULATE_READ,
        Populate::Write => libc::MADV_POPULATE_WRITE,
    };
    // SAFETY: the range is within `region`, which is mapped; populating changes no
    // content.
    match unsafe { libc::madvise(start.cast(), size, advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Maps a range of `file` over a range of `region`, copy-on-write.
///
/// # Errors
/// The range is outside of the region, or `mmap` fails.
pub(crate) fn map_over(
    region: &MmapRegion,
    offset: u64,
    size: u64,
    file: &File,
    file_offset: u64,
) -> io::Result<()> {
    let (start, size) = range_within(region, offset, size)?;
    let file_offset = file_offset.try_into().map_err(io::Error::other)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the range is within `region`, which owns the mapping that is replaced; no
    // reference into it is alive, as guest memory is only accessed through volatile copies.
    let mapped =
        unsafe { libc::mmap(start.cast(), size, protection, flags, file.as_raw_fd(), file_offset) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Drops the private copies in a range of a mapping, so that it shows the mapped content again.
///
/// # Errors
/// The range is outside of the region, or `madvise` fails.
pub(crate) fn drop_pages(region: &MmapRegion, offset: u64, size: u64) -> io::Result<()> {
    let (start, size) = range_within(region, offset, size)?;
    // SAFETY: the range is within `region`, which is mapped; no reference into it is alive,
    // as guest memory is only accessed through volatile copies.
    match unsafe { libc::madvise(start.cast(), size, libc::MADV_DONTNEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a page holds the same bytes in two regions. `false` for a page outside of either. The
/// answer is meaningful only while nothing writes to the page.
pub(crate) fn is_same_page(one: &MmapRegion, other: &MmapRegion, page: u64, size: u64) -> bool {
    const WORD: usize = size_of::<u64>();
    const GROUP: usize = 16;
    let Some(offset) = page.checked_mul(size) else { return false };
    let (Ok((one, length)), Ok((other, _))) =
        (range_within(one, offset, size), range_within(other, offset, size))
    else {
        return false;
    };
    let is_aligned = one.addr() % WORD == 0 && other.addr() % WORD == 0;
    let difference = |index: usize| {
        let (one, other) = (one.wrapping_add(index * WORD), other.wrapping_add(index * WORD));
        // SAFETY: the word is within a range of a region that is mapped for reading, and is
        // aligned. The read is volatile, as are all accesses to guest memory.
        let one = unsafe { one.cast::<u64>().read_volatile() };
        // SAFETY: the same holds for the other region.
        let other = unsafe { other.cast::<u64>().read_volatile() };
        one ^ other
    };
    // Several words for each branch: most pages are equal to their end.
    let is_same = |group: usize| {
        (0..GROUP).fold(0, |all, index| all | difference(group * GROUP + index)) == 0
    };
    is_aligned && length % (GROUP * WORD) == 0 && (0..length / (GROUP * WORD)).all(is_same)
}

/// The address and length of a range of a region.
fn range_within(region: &MmapRegion, offset: u64, size: u64) -> io::Result<(*mut u8, usize)> {
    let (offset, size) = (offset as usize, size as usize);
    if offset.checked_add(size).is_none_or(|end| end > region.size()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok((region.as_ptr().wrapping_add(offset), size))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_grows_to_whole_pages_of_the_host() {
        assert_eq!(around(0x1000, 0x1000, 0x1000), (0x1000, 0x1000));
        assert_eq!(around(0x5000, 0x2000, 0x4000), (0x4000, 0x4000));
        assert_eq!(around(0x7000, 0x2000, 0x4000), (0x4000, 0x8000));
    }
}
