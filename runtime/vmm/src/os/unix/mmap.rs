//! Mappings of this process: guest memory and disks.
//!
//! Each function is safe to call with any argument.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

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

/// Copies a range of one region to the same place in another.
///
/// # Errors
/// The range is outside of a region.
pub(crate) fn copy_range(
    to: &MmapRegion,
    from: &MmapRegion,
    offset: u64,
    size: u64,
) -> io::Result<()> {
    let (offset, size) = (offset as usize, size as usize);
    let from = from.as_volatile_slice().subslice(offset, size).map_err(io::Error::other)?;
    let to = to.as_volatile_slice().subslice(offset, size).map_err(io::Error::other)?;
    from.copy_to_volatile_slice(to);
    Ok(())
}

/// The address and length of a range of a region.
pub(in crate::os) fn range_within(
    region: &MmapRegion,
    offset: u64,
    size: u64,
) -> io::Result<(*mut u8, usize)> {
    let (offset, size) = (offset as usize, size as usize);
    if offset.checked_add(size).is_none_or(|end| end > region.size()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok((region.as_ptr().wrapping_add(offset), size))
}
