//! The operating-system calls that machines need and that no crate here wraps.
//!
//! Each function is safe to call with any argument.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::thread::JoinHandleExt;
use std::ptr::NonNull;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vm_memory::MmapRegion;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

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
    let (start, size) = stretch(region, offset, size)?;
    let advice = match how {
        Populate::Read => libc::MADV_POPULATE_READ,
        Populate::Write => libc::MADV_POPULATE_WRITE,
    };
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
    let (start, size) = stretch(region, offset, size)?;
    let file_offset = file_offset.try_into().map_err(io::Error::other)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the stretch lies within `region`, which owns the mapping that is replaced; no
    // reference into it is alive, as guest memory is only accessed through volatile copies.
    let mapped =
        unsafe { libc::mmap(start.cast(), size, protection, flags, file.as_raw_fd(), file_offset) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Drops a stretch of a private mapping: what was written there is gone, and what was mapped
/// shows again.
///
/// # Errors
/// A stretch outside the region, or what `madvise` answers.
pub(crate) fn drop_pages(region: &MmapRegion, offset: u64, size: u64) -> io::Result<()> {
    let (start, size) = stretch(region, offset, size)?;
    // SAFETY: the stretch lies within `region`, which is mapped; no reference into it is alive,
    // as guest memory is only accessed through volatile copies.
    match unsafe { libc::madvise(start.cast(), size, libc::MADV_DONTNEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a page of two regions, which nobody writes to now, holds the same in both. Pages
/// outside of either do not.
pub(crate) fn is_same_page(one: &MmapRegion, other: &MmapRegion, page: u64, size: u64) -> bool {
    let Some(offset) = page.checked_mul(size) else { return false };
    let (Ok((one, length)), Ok((other, _))) =
        (stretch(one, offset, size), stretch(other, offset, size))
    else {
        return false;
    };
    // SAFETY: both stretches lie within regions that are mapped for reading, and have `length`
    // bytes.
    unsafe { libc::memcmp(one.cast(), other.cast(), length) == 0 }
}

/// Where a stretch of a region lies, if it lies within.
fn stretch(region: &MmapRegion, offset: u64, size: u64) -> io::Result<(*mut u8, usize)> {
    let (offset, size) = (offset as usize, size as usize);
    if offset.checked_add(size).is_none_or(|end| end > region.size()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok((region.as_ptr().wrapping_add(offset), size))
}

/// Memory of this process alone, in place when it is handed out: writing to it meets no page
/// faults. It is not the allocator's, so that it goes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Block {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: the block owns its memory as a `Vec<u8>` does; nothing in it belongs to a thread.
unsafe impl Send for Block {}
// SAFETY: shared access only reads.
unsafe impl Sync for Block {}

impl Block {
    /// A block of zeros, of one page at least.
    ///
    /// # Errors
    /// The host has no room.
    pub(crate) fn new(size: usize) -> io::Result<Self> {
        let size = whole_pages(size)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: no address is asked for, so no other mapping is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
        let block = Self { start: mapped(start)?, size };
        block.put_in_place(0)?;
        Ok(block)
    }

    /// Makes the block larger or smaller. What it holds stays, as far as there is room.
    ///
    /// # Errors
    /// The host has no room; the block is as it was, or larger.
    pub(crate) fn resize(&mut self, size: usize) -> io::Result<()> {
        let size = whole_pages(size)?;
        let (start, before) = (self.start.as_ptr().cast(), self.size);
        // SAFETY: the stretch is the block's own mapping, to which nothing refers while it is
        // borrowed mutably.
        let start = unsafe { libc::mremap(start, before, size, libc::MREMAP_MAYMOVE) };
        self.start = mapped(start)?;
        self.size = size;
        if before < size { self.put_in_place(before) } else { Ok(()) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the block's memory is mapped, initialised by the kernel, and not written while
        // it is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the block's memory is mapped, initialised by the kernel, and this is the only
        // borrow of it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }

    fn put_in_place(&self, from: usize) -> io::Result<()> {
        let start = self.start.as_ptr().wrapping_add(from).cast();
        // SAFETY: the stretch lies within the block; populating changes no content.
        match unsafe { libc::madvise(start, self.size - from, libc::MADV_POPULATE_WRITE) } {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                // Kernels before 5.14 put pages in place when they are written.
                error if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
                error => Err(error),
            },
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the stretch is the block's own mapping, and nothing borrows it any more. It
        // can only fail for a stretch that is none.
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

ioctl_iowr_nr!(PAGEMAP_SCAN, b'f' as u32, 16, ScanArguments);

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Debug, Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_length: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_any_of: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// Pages of a file, as opposed to a private copy.
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
/// The one page of zeros that all untouched anonymous memory shows when it is read.
const PAGE_IS_ZERO: u64 = 1 << 5;
/// Stretches fetched at once.
const REGIONS: usize = 1024;

/// This process's page map: which pages of its mappings are in place, and how.
#[derive(Debug)]
pub(crate) struct PageMap {
    file: File,
    regions: Vec<PageRegion>,
}

impl PageMap {
    /// Opens it.
    ///
    /// # Errors
    /// What the host says, which may not show it.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self::over(File::open("/proc/self/pagemap")?))
    }

    pub(super) fn over(file: File) -> Self {
        Self { file, regions: vec![PageRegion::default(); REGIONS] }
    }

    /// Tells the stretches of a private mapping that were written, in rising order: first page
    /// and count, counted from the region's start. Pages next to each other may come in two
    /// stretches.
    ///
    /// # Errors
    /// The map cannot be read.
    pub(crate) fn written(
        &mut self,
        region: &MmapRegion,
        page_size: u64,
        mut tell: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let untouched = PAGE_IS_FILE | PAGE_IS_ZERO;
        match self.scan(region, page_size, untouched, &mut |first, count, _| tell(first, count)) {
            // Kernels before 6.7 have no such call.
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                let pages = pages_in(&self.file, region, page_size, is_written)?;
                pages.into_iter().for_each(|page| tell(page, 1));
                Ok(())
            }
            result => result,
        }
    }

    /// The same for all pages that are in place, with whether they were written.
    ///
    /// # Errors
    /// The map cannot be read.
    pub(crate) fn in_place(
        &mut self,
        region: &MmapRegion,
        page_size: u64,
        mut tell: impl FnMut(u64, u64, bool),
    ) -> io::Result<()> {
        let result = self.scan(region, page_size, 0, &mut |first, count, categories| {
            tell(first, count, categories & (PAGE_IS_FILE | PAGE_IS_ZERO) == 0);
        });
        match result {
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                let is_there = |entry: u64| entry >> 62 != 0;
                let there = pages_in(&self.file, region, page_size, is_there)?;
                let written = pages_in(&self.file, region, page_size, is_written)?;
                for page in there {
                    tell(page, 1, written.binary_search(&page).is_ok());
                }
                Ok(())
            }
            result => result,
        }
    }

    /// Tells stretches of pages that are in place and of none of the categories `without`.
    fn scan(
        &mut self,
        region: &MmapRegion,
        page_size: u64,
        without: u64,
        tell: &mut impl FnMut(u64, u64, u64),
    ) -> io::Result<()> {
        let first = region.as_ptr() as u64;
        let end = first + region.size() as u64;
        let mut at = first;
        while at < end {
            let mut arguments = ScanArguments {
                size: size_of::<ScanArguments>() as u64,
                start: at,
                end,
                regions: self.regions.as_mut_ptr() as u64,
                regions_length: self.regions.len() as u64,
                category_inverted: without,
                category_mask: without,
                return_mask: PAGE_IS_FILE | PAGE_IS_ZERO,
                category_any_of: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
                ..ScanArguments::default()
            };
            // SAFETY: the kernel reads and writes one `pm_scan_arg`, which `arguments` is, and
            // writes at most `regions_length` elements to where `regions` has as many.
            let count = unsafe { ioctl_with_mut_ref(&self.file, PAGEMAP_SCAN(), &mut arguments) };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            for found in self.regions.iter().take(count) {
                let pages = found.end.saturating_sub(found.start) / page_size;
                tell(found.start.saturating_sub(first) / page_size, pages, found.categories);
            }
            // Where the kernel says that its walk ended can be a place that it has passed since.
            at = match self.regions.get(count.wrapping_sub(1)) {
                Some(last) if count == self.regions.len() && last.end > at => last.end,
                Some(_) if count == self.regions.len() => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                _ => end,
            };
        }
        Ok(())
    }
}

/// Whether an entry of the page map is that of a page which was written.
pub(super) fn is_written(entry: u64) -> bool {
    let (present, swapped, of_file) = (entry >> 63 & 1, entry >> 62 & 1, entry >> 61 & 1);
    swapped == 1 || (present == 1 && of_file == 0)
}

/// Which pages of a mapping have a wanted entry in the page map: their numbers, counted from the
/// region's start, in rising order.
pub(super) fn pages_in(
    map: &File,
    region: &MmapRegion,
    page_size: u64,
    wanted: impl Fn(u64) -> bool,
) -> io::Result<Vec<u64>> {
    const ENTRY: u64 = 8;
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
pub fn fill_random(buffer: &mut [u8]) -> io::Result<()> {
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

/// How many threads are worth it for pieces of work: one for each processor, if it has so many.
#[must_use]
pub fn threads_for(pieces: usize, each: usize) -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    processors.min(pieces.div_ceil(each)).max(1)
}

/// The processor time that a thread has used.
pub(crate) fn thread_cpu_time<T>(thread: &JoinHandle<T>) -> io::Result<Duration> {
    let mut clock = 0;
    // SAFETY: the thread was not joined, so that its handle is valid.
    let errno = unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) };
    if errno != 0 {
        return Err(io::Error::from_raw_os_error(errno));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one time.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Ok(Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)))
}

/// Receives what a stream holds now: `WouldBlock` if that is nothing. Others may wait on the same
/// stream meanwhile, so that it must not be set to answer at once for all of them.
pub fn receive_now(stream: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let fd = stream.as_fd().as_raw_fd();
    let start = buffer.as_mut_ptr().cast();
    // SAFETY: pointer and length describe `buffer`, which is writable.
    let count = unsafe { libc::recv(fd, start, buffer.len(), libc::MSG_DONTWAIT) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Sends what a stream has room for now: `WouldBlock` if that is nothing. Raises no signal.
pub fn send_now(stream: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let fd = stream.as_fd().as_raw_fd();
    let how = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length describe `bytes`.
    let count = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), how) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Ends both directions of a stream.
pub fn shut_down(stream: &impl AsFd) -> io::Result<()> {
    // SAFETY: no memory is involved.
    match unsafe { libc::shutdown(stream.as_fd().as_raw_fd(), libc::SHUT_RDWR) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
