//! Guest RAM: private mappings of memory files, or pages that arrive when they are touched.
//!
//! The guest's writes stay in this process. Every machine that starts from the files shares them,
//! and they never change.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use supermachine_formats::snapshot::memory::{PAGE_SIZE, Run};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::os::{self, Populate, Protection};

/// A range of guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamWindow {
    /// Its address in the guest.
    pub guest_address: u64,
    /// Its offset in the memory file.
    pub file_offset: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// The guest's RAM as devices see it.
pub(crate) type GuestMemory = GuestMemoryMmap<()>;

/// The files with a machine's original memory.
#[derive(Debug, Clone)]
pub struct MemoryFiles {
    /// All of RAM, as the base of the snapshot left it.
    pub base: Arc<File>,
    /// The pages that differ from it. A later overlay is in front of earlier ones.
    pub overlays: Vec<Overlay>,
}

/// A file as large as RAM, some ranges of which take the place of another file's.
#[derive(Debug, Clone)]
pub struct Overlay {
    /// The file.
    pub file: Arc<File>,
    /// The ranges, in rising order.
    pub runs: Arc<[Run]>,
}

impl MemoryFiles {
    /// Reads a page of the snapshot.
    ///
    /// # Errors
    /// The file cannot be read, or ends before the page.
    pub fn read_page(&self, page: u64, content: &mut [u8; PAGE_SIZE as usize]) -> io::Result<()> {
        self.read_pages(page, content)
    }

    /// Reads pages of the snapshot from `first` on, as many whole ones as there is room for.
    ///
    /// # Errors
    /// A file cannot be read, or ends before the pages.
    pub(super) fn read_pages(&self, first: u64, content: &mut [u8]) -> io::Result<()> {
        let (mut page, mut rest) = (first, content);
        while rest.len() >= PAGE_SIZE as usize {
            let wanted = rest.len() as u64 / PAGE_SIZE;
            let (file, count) = self.source(page, wanted);
            let (now, later) = rest.split_at_mut((count * PAGE_SIZE) as usize);
            file.read_exact_at(now, page * PAGE_SIZE)?;
            (page, rest) = (page + count, later);
        }
        Ok(())
    }

    /// The file with the content of a page, and how many pages from there on it has, of those wanted.
    fn source(&self, page: u64, wanted: u64) -> (&File, u64) {
        let mut count = wanted;
        for overlay in self.overlays.iter().rev() {
            match overlay.run_after(page) {
                Some(run) if run.first <= page => {
                    return (&overlay.file, count.min(run.end() - page));
                }
                Some(run) => count = count.min(run.first - page),
                None => {}
            }
        }
        (&self.base, count)
    }
}

impl Overlay {
    /// The run that holds a page, or else the first one behind it.
    fn run_after(&self, page: u64) -> Option<&Run> {
        self.runs.get(self.runs.partition_point(|run| run.end() <= page))
    }
}

impl From<Arc<File>> for MemoryFiles {
    fn from(base: Arc<File>) -> Self {
        Self { base, overlays: Vec::new() }
    }
}

/// A machine's RAM.
#[derive(Debug)]
pub(crate) struct Ram {
    memory: Arc<GuestMemory>,
    windows: Vec<(RamWindow, Arc<MmapRegion>)>,
}

impl Ram {
    /// Maps memory files in these windows, copy-on-write.
    ///
    /// # Errors
    /// A file is shorter than the windows, or the mapping fails.
    pub(crate) fn map(files: &MemoryFiles, windows: Vec<RamWindow>) -> io::Result<Self> {
        let size = windows.iter().map(|window| window.size).sum();
        let ram = Self::of_windows(windows, |window| {
            let offset = FileOffset::from_arc(Arc::clone(&files.base), window.file_offset);
            os::map_private(offset, window.size, Protection::ReadWrite)
        })?;
        for Overlay { file, runs } in &files.overlays {
            if file.metadata()?.len() < size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for (region, offset, length, _) in ram.ranges(runs) {
                let from = offset + ram.file_offset(region);
                os::map_over(region, offset, length, file, from)?;
            }
        }
        Ok(ram)
    }

    /// Reserves these windows of RAM for a [`Pager`](super::pager::Pager) to fill in.
    ///
    /// # Errors
    /// The mapping fails.
    pub(crate) fn reserve(windows: Vec<RamWindow>) -> io::Result<Self> {
        Self::of_windows(windows, |window| os::reserve(window.size, Protection::ReadWrite))
    }

    fn of_windows(
        windows: Vec<RamWindow>,
        map: impl Fn(&RamWindow) -> io::Result<MmapRegion>,
    ) -> io::Result<Self> {
        let windows = windows
            .into_iter()
            .map(|window| Ok((window, Arc::new(map(&window)?))))
            .collect::<io::Result<Vec<_>>>()?;
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

    /// The memory that devices read and write.
    pub(crate) fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The mapped windows, for the hypervisor.
    pub(crate) fn windows(&self) -> &[(RamWindow, Arc<MmapRegion>)] {
        &self.windows
    }

    /// Populates pages in bulk. This only saves time: a page that fails is left to a page fault.
    pub(crate) fn populate(&self, runs: &[Run], how: Populate) {
        for (region, offset, size, _) in self.ranges(runs) {
            let _ = os::populate(region, offset, size, how);
        }
    }

    /// The guest addresses and sizes of runs of pages.
    pub(crate) fn guest_ranges(&self, runs: &[Run]) -> Vec<(u64, u64)> {
        self.ranges(runs).map(|(_, _, size, address)| (address, size)).collect()
    }

    /// Cuts runs at window borders into region, offset in the region, size, and guest address.
    fn ranges<'a>(
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
    os::map_private(offset, size, Protection::ReadOnly).map(Arc::new)
}

/// Reserves the window of a disk image for a [`Pager`](super::pager::Pager) to fill in.
///
/// # Errors
/// The mapping fails.
pub(crate) fn reserve_disk(size: u64) -> io::Result<Arc<MmapRegion>> {
    os::reserve(size, Protection::ReadOnly).map(Arc::new)
}
