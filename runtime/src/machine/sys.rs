//! The operating-system calls that machines need and that no crate here wraps.
//!
//! Each function is safe to call with any argument.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use vm_memory::MmapRegion;

/// How the pages of a mapping are put in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Populate {
    /// As a read would: file pages are mapped.
    Read,
    /// As a write would: private copies are made.
    Write,
}

/// Puts pages of `region` in place in one go.
///
/// # Errors
/// A stretch outside the region, or what `madvise` answers.
pub(crate) fn populate(
    region: &MmapRegion,
    offset: u64,
    size: u64,
    how: Populate,
) -> io::Result<()> {
    let (offset, size) = (offset as usize, size as usize);
    if offset.checked_add(size).is_none_or(|end| end > region.size()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let advice = match how {
        Populate::Read => libc::MADV_POPULATE_READ,
        Populate::Write => libc::MADV_POPULATE_WRITE,
    };
    let start = region.as_ptr().wrapping_add(offset);
    // SAFETY: the stretch lies within `region`, which is mapped; populating changes no
    // content.
    match unsafe { libc::madvise(start.cast(), size, advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Maps a stretch of `file` over a stretch of `region`, copy-on-write.
///
/// # Errors
/// A stretch outside the region, or what `mmap` answers.
pub(crate) fn map_over(
    region: &MmapRegion,
    offset: u64,
    size: u64,
    file: &File,
    file_offset: u64,
) -> io::Result<()> {
    let (offset, size) = (offset as usize, size as usize);
    if offset.checked_add(size).is_none_or(|end| end > region.size()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let file_offset = file_offset.try_into().map_err(io::Error::other)?;
    let start = region.as_ptr().wrapping_add(offset).cast();
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the stretch lies within `region`, which owns the mapping that is replaced; no
    // reference into it is alive, as guest memory is only accessed through volatile copies.
    let mapped = unsafe {
        libc::mmap(start, size, protection, flags, file.as_raw_fd(), file_offset)
    };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Which pages of a private mapping were written: their numbers, counted from the region's
/// start, in rising order.
///
/// # Errors
/// The process's page map cannot be read.
pub(crate) fn written_pages(region: &MmapRegion, page_size: u64) -> io::Result<Vec<u64>> {
    pages_with(region, page_size, |entry| {
        let (present, swapped, of_file) = (entry >> 63 & 1, entry >> 62 & 1, entry >> 61 & 1);
        swapped == 1 || (present == 1 && of_file == 0)
    })
}

/// Which pages of a private mapping are in place but were not written.
///
/// # Errors
/// The process's page map cannot be read.
pub(crate) fn read_pages(region: &MmapRegion, page_size: u64) -> io::Result<Vec<u64>> {
    pages_with(region, page_size, |entry| entry >> 63 & 1 == 1 && entry >> 61 & 1 == 1)
}

fn pages_with(
    region: &MmapRegion,
    page_size: u64,
    wanted: impl Fn(u64) -> bool,
) -> io::Result<Vec<u64>> {
    const ENTRY: u64 = 8;
    let map = File::open("/proc/self/pagemap")?;
    let first = region.as_ptr() as u64 / page_size;
    let pages = region.size() as u64 / page_size;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let mut page = 0;
    while page < pages {
        let count = (pages - page).min(buffer.len() as u64 / ENTRY);
        let entries = buffer.get_mut(..(count * ENTRY) as usize).unwrap_or_default();
        map.read_exact_at(entries, (first + page) * ENTRY)?;
        for entry in entries.as_chunks::<8>().0 {
            if wanted(u64::from_ne_bytes(*entry)) {
                found.push(page);
            }
            page += 1;
        }
    }
    Ok(found)
}

/// Fills `buffer` with random bytes from the operating system.
///
/// # Errors
/// What `getrandom` answers.
pub(crate) fn fill_random(buffer: &mut [u8]) -> io::Result<()> {
    let mut rest = buffer;
    while !rest.is_empty() {
        // SAFETY: pointer and length describe `rest`, which is writable.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}
