//! Guest RAM: private mappings of memory files, or pages that come when they are touched.
//!
//! What the guest writes stays in this process; the files are shared by every machine that
//! starts from them and never change.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use supermachine_formats::snapshot::memory::{PAGE_SIZE, Run};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::layout::{RamWindow, ram_windows};
use super::sys::{self, Populate};

/// The guest's RAM as devices see it.
pub(crate) type GuestMemory = GuestMemoryMmap<()>;

/// The files that hold what a machine's memory begins with.
#[derive(Debug, Clone)]
pub struct MemoryFiles {
    /// All of RAM, as the base of the snapshot left it.
    pub base: Arc<File>,
    /// What the snapshot has instead.
    pub overlay: Option<Overlay>,
}

/// A file as large as RAM, of which some stretches are in front of another's.
#[derive(Debug, Clone)]
pub struct Overlay {
    /// The file.
    pub file: Arc<File>,
    /// The stretches, in rising order.
    pub runs: Arc<[Run]>,
}

impl MemoryFiles {
    /// Reads a page as the snapshot has it.
    ///
    /// # Errors
    /// The file cannot be read, or ends before the page.
    pub fn read_page(&self, page: u64, content: &mut [u8; PAGE_SIZE as usize]) -> io::Result<()> {
        let in_front = self.overlay.as_ref().filter(|overlay| overlay.has(page));
        let file = in_front.map_or(&self.base, |overlay| &overlay.file);
        file.read_exact_at(content, page * PAGE_SIZE)
    }
}

impl Overlay {
    fn has(&self, page: u64) -> bool {
        let after = self.runs.partition_point(|run| run.first <= page);
        let run = after.checked_sub(1).and_then(|before| self.runs.get(before));
        run.is_some_and(|run| page < run.end())
    }
}

impl From<Arc<File>> for MemoryFiles {
    fn from(base: Arc<File>) -> Self {
        Self { base, overlay: None }
    }
}

/// A machine's RAM.
#[derive(Debug)]
pub(crate) struct Ram {
    memory: Arc<GuestMemory>,
    windows: Vec<(RamWindow, Arc<MmapRegion>)>,
}

impl Ram {
    /// Maps `size` bytes of memory files, copy-on-write.
    ///
    /// # Errors
    /// A file is shorter than `size`, or the mapping fails.
    pub(crate) fn map(files: &MemoryFiles, size: u64) -> io::Result<Self> {
        let ram = Self::of_windows(size, |window| {
            let offset = FileOffset::from_arc(Arc::clone(&files.base), window.file_offset);
            map_private(offset, window.size, libc::PROT_READ | libc::PROT_WRITE)
        })?;
        if let Some(Overlay { file, runs }) = &files.overlay {
            if file.metadata()?.len() < size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for (region, offset, length, _) in ram.stretches(runs) {
                let from = offset + ram.file_offset(region);
                sys::map_over(region, offset, length, file, from)?;
            }
        }
        Ok(ram)
    }

    /// Makes `size` bytes of RAM that is put in place by somebody else, page by page.
    ///
    /// # Errors
    /// The mapping fails.
    pub(crate) fn reserve(size: u64) -> io::Result<Self> {
        Self::of_windows(size, |window| reserve(window.size, libc::PROT_READ | libc::PROT_WRITE))
    }

    fn of_windows(
        size: u64,
        map: impl Fn(&RamWindow) -> io::Result<MmapRegion>,
    ) -> io::Result<Self> {
        let mut windows = Vec::new();
        for window in ram_windows(size) {
            let region = Arc::new(map(&window)?);
            windows.push((window, region));
        }
        let regions = windows
            .iter()
            .filter_map(|(window, region)| {
                let base = GuestAddress(window.guest_address);
                GuestRegionMmap::with_arc(Arc::clone(region), base).map(Arc::new)
            })
            .collect();
        let memory = GuestMemory::from_arc_regions(regions).map_err(io::Error::other)?;
        Ok(Self { memory: Arc::new(memory), windows })
    }

    fn file_offset(&self, region: &MmapRegion) -> u64 {
        let same = |(_, own): &&(RamWindow, Arc<MmapRegion>)| std::ptr::eq(&**own, region);
        self.windows.iter().find(same).map_or(0, |(window, _)| window.file_offset)
    }

    /// What devices read and write.
    pub(crate) fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The mapped windows, for the hypervisor.
    pub(crate) fn windows(&self) -> &[(RamWindow, Arc<MmapRegion>)] {
        &self.windows
    }

    /// Puts pages in place in bulk. Only a speed-up: what fails is left to page faults.
    pub(crate) fn populate(&self, runs: &[Run], how: Populate) {
        for (region, offset, size, _) in self.stretches(runs) {
            // The same pages are put in place one by one when the guest touches them.
            let _ = sys::populate(region, offset, size, how);
        }
    }

    /// The guest addresses and sizes of runs of pages.
    pub(crate) fn guest_ranges(&self, runs: &[Run]) -> Vec<(u64, u64)> {
        self.stretches(runs).map(|(_, _, size, address)| (address, size)).collect()
    }

    /// Cuts runs at window borders: region, offset in it, size, guest address.
    fn stretches<'a>(
        &'a self,
        runs: &'a [Run],
    ) -> impl Iterator<Item = (&'a MmapRegion, u64, u64, u64)> {
        runs.iter().flat_map(move |run| {
            let (start, end) = (run.first * PAGE_SIZE, run.end() * PAGE_SIZE);
            self.windows.iter().filter_map(move |(window, region)| {
                let from = start.max(window.file_offset);
                let to = end.min(window.file_offset + window.size);
                (from < to).then(|| {
                    let offset = from - window.file_offset;
                    (&**region, offset, to - from, window.guest_address + offset)
                })
            })
        })
    }
}

/// Maps a disk image read-only.
///
/// # Errors
/// The file is shorter than `size`, or the mapping fails.
pub(crate) fn map_disk(file: &Arc<File>, size: u64) -> io::Result<Arc<MmapRegion>> {
    let offset = FileOffset::from_arc(Arc::clone(file), 0);
    map_private(offset, size, libc::PROT_READ).map(Arc::new)
}

/// Makes room for a disk image that is put in place by somebody else, page by page.
///
/// # Errors
/// The mapping fails.
pub(crate) fn reserve_disk(size: u64) -> io::Result<Arc<MmapRegion>> {
    reserve(size, libc::PROT_READ).map(Arc::new)
}

fn reserve(size: u64, protection: i32) -> io::Result<MmapRegion> {
    MmapRegionBuilder::new(usize::try_from(size).map_err(io::Error::other)?)
        .with_mmap_prot(protection)
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
        .build()
        .map_err(io::Error::other)
}

fn map_private(offset: FileOffset, size: u64, protection: i32) -> io::Result<MmapRegion> {
    // What is mapped beyond a file's end is a fatal signal when it is touched.
    let end = offset.start().checked_add(size).ok_or(io::ErrorKind::InvalidInput)?;
    if offset.file().metadata()?.len() < end {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let size = usize::try_from(size).map_err(io::Error::other)?;
    MmapRegionBuilder::new(size)
        .with_file_offset(offset)
        .with_mmap_prot(protection)
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_NORESERVE)
        .build()
        .map_err(io::Error::other)
}
