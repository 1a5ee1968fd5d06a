//! Guest RAM: a private mapping of a memory file.
//!
//! What the guest writes stays in this process; the file is shared by every machine that
//! starts from it and never changes.

use std::fs::File;
use std::io;
use std::sync::Arc;

use supermachine_formats::snapshot::memory::{PAGE_SIZE, Run, runs_of};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::layout::{RamWindow, ram_windows};
use super::sys::{self, Populate};

/// The guest's RAM as devices see it.
pub(crate) type GuestMemory = GuestMemoryMmap<()>;

/// A machine's RAM.
#[derive(Debug)]
pub(crate) struct Ram {
    memory: Arc<GuestMemory>,
    windows: Vec<(RamWindow, Arc<MmapRegion>)>,
}

impl Ram {
    /// Maps `size` bytes of a memory file, copy-on-write.
    ///
    /// # Errors
    /// The file is shorter than `size`, or the mapping fails.
    pub(crate) fn map(file: &Arc<File>, size: u64) -> io::Result<Self> {
        let mut windows = Vec::new();
        for window in ram_windows(size) {
            let offset = FileOffset::from_arc(Arc::clone(file), window.file_offset);
            let region = map_private(offset, window.size, libc::PROT_READ | libc::PROT_WRITE)?;
            windows.push((window, Arc::new(region)));
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

    /// Pages that were written since they were mapped, in rising order.
    ///
    /// # Errors
    /// The process's page map cannot be read.
    pub(crate) fn written(&self) -> io::Result<Vec<u64>> {
        self.numbered(sys::written_pages)
    }

    /// Pages that are in place but were not written.
    ///
    /// # Errors
    /// The process's page map cannot be read.
    pub(crate) fn read_only(&self) -> io::Result<Vec<Run>> {
        Ok(runs_of(self.numbered(sys::read_pages)?))
    }

    fn numbered(
        &self,
        pages: impl Fn(&MmapRegion, u64) -> io::Result<Vec<u64>>,
    ) -> io::Result<Vec<u64>> {
        let mut all = Vec::new();
        for (window, region) in &self.windows {
            let first = window.file_offset / PAGE_SIZE;
            all.extend(pages(region, PAGE_SIZE)?.into_iter().map(|page| first + page));
        }
        Ok(all)
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
