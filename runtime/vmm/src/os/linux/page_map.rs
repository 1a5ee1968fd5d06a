//! This process's page map: which pages of its mappings are present, and how.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_memory::MmapRegion;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

use super::device_file::PAGE_MAP;
use crate::os::unix::mmap::host_page_size;
use crate::os::unix::page_state::{PageState, report_present};

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

/// A page of a file, as opposed to a private copy.
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
/// The shared page of zeros that a read of untouched anonymous memory maps.
const PAGE_IS_ZERO: u64 = 1 << 5;
/// Ranges fetched at once.
const REGIONS: usize = 1024;

/// This process's page map: which pages of its mappings are present, and how.
#[derive(Debug)]
pub(crate) struct PageMap {
    file: File,
    regions: Vec<PageRegion>,
}

impl PageMap {
    /// Opens the page map.
    ///
    /// # Errors
    /// The host does not allow it.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self::over(PAGE_MAP.open()?))
    }

    pub(crate) fn over(file: File) -> Self {
        Self { file, regions: vec![PageRegion::default(); REGIONS] }
    }

    /// Calls `report` for each range of written pages of a private mapping, in rising order, with its
    /// first page, counted from the region's start, and its length. Adjacent pages may come in
    /// several ranges.
    ///
    /// # Errors
    /// The map cannot be read.
    pub(crate) fn written(
        &mut self,
        region: &MmapRegion,
        page_size: u64,
        mut report: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let untouched = PAGE_IS_FILE | PAGE_IS_ZERO;
        match self.scan(region, page_size, untouched, &mut |first, count, _| report(first, count)) {
            // Kernels before 6.7 have no such call.
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                self.read_entries(region, page_size, &mut |first, count, is_written| {
                    if is_written {
                        report(first, count);
                    }
                })
            }
            result => result,
        }
    }

    /// The same for all present pages, with whether they were written.
    ///
    /// # Errors
    /// The map cannot be read.
    pub(crate) fn in_place(
        &mut self,
        region: &MmapRegion,
        page_size: u64,
        mut report: impl FnMut(u64, u64, bool),
    ) -> io::Result<()> {
        let result = self.scan(region, page_size, 0, &mut |first, count, categories| {
            report(first, count, categories & (PAGE_IS_FILE | PAGE_IS_ZERO) == 0);
        });
        match result {
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                self.read_entries(region, page_size, &mut report)
            }
            result => result,
        }
    }

    /// Calls `report` for each range of present pages that are in none of the categories `without`.
    fn scan(
        &mut self,
        region: &MmapRegion,
        page_size: u64,
        without: u64,
        report: &mut impl FnMut(u64, u64, u64),
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
                report(found.start.saturating_sub(first) / page_size, pages, found.categories);
            }
            // Not `walk_end`: the kernel may have passed that address without reporting it.
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

    /// Reports the present pages by the map's entries, of which each page of the host has one.
    pub(crate) fn read_entries(
        &self,
        region: &MmapRegion,
        page_size: u64,
        report: &mut impl FnMut(u64, u64, bool),
    ) -> io::Result<()> {
        const ENTRY: u64 = 8;
        let host_page = host_page_size();
        let parts = (host_page / page_size).max(1);
        let first = region.as_ptr() as u64 / host_page;
        let pages = region.size() as u64 / host_page;
        let mut buffer = vec![0; 64 << 10];
        let mut page = 0;
        while page < pages {
            let count = (pages - page).min(buffer.len() as u64 / ENTRY);
            let entries = buffer.get_mut(..(count * ENTRY) as usize).unwrap_or_default();
            self.file.read_exact_at(entries, (first + page) * ENTRY)?;
            let entries = entries.as_chunks().0;
            let states = entries.iter().map(|entry| state(u64::from_ne_bytes(*entry)));
            report_present(states, page, parts, report);
            page += count;
        }
        Ok(())
    }
}

/// The state that an entry of the page map describes.
fn state(entry: u64) -> PageState {
    let (present, swapped, of_file) = (entry >> 63 & 1, entry >> 62 & 1, entry >> 61 & 1);
    match (present, swapped, of_file) {
        (_, 1, _) | (1, _, 0) => PageState::Written,
        (1, ..) => PageState::Read,
        _ => PageState::Absent,
    }
}
