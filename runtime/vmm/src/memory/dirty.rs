//! The pages that a guest wrote, copied while it was paused.
//!
//! Keeps the pause short. [`DirtyPages::prepare`] allocates memory and walks page tables for the
//! first time while the guest runs. [`DirtyPages::find`] and [`DirtyPages::copy`] do the rest while
//! it is paused. The caller that stores the pages drops those that did not change.
//!
//! A worker moves the pages into a file for its client, see [`DirtyPages::into_file`].
//!
//! The process's page table shows written pages as private copies. A page that this process filled
//! in counts as written; a page that was only read does not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use supermachine_formats::snapshot::memory::{PAGE_SIZE, Run, validate_runs};
use vm_memory::VolatileMemory;

use super::ram::Ram;
use crate::os::{self, PageBuffer, PageMap};

const SIZE: usize = PAGE_SIZE as usize;
/// Room for pages that are written between `prepare` and `find`, on top of an eighth.
const SLACK_PAGES: u64 = 512;
/// Bytes that move into a file at a time. A multiple of every host's page size.
const PIECE: usize = 4 << 20;

/// The pages that a guest wrote, with their content at the capture.
#[derive(Debug)]
pub struct DirtyPages {
    /// In rising order, and not adjacent.
    runs: Vec<Run>,
    /// The number of pages in `buffer` before each run's.
    before: Vec<u64>,
    /// The pages, one after the other, with room for more.
    buffer: PageBuffer,
}

impl DirtyPages {
    /// Allocates room for the pages that are written now, and some more. The guest may run.
    pub(crate) fn prepare(ram: &Ram, map: &mut PageMap) -> io::Result<Self> {
        let runs = written(ram, map, Vec::new())?;
        let count = pages_of(&runs);
        let room = count.saturating_add(count / 8).saturating_add(SLACK_PAGES);
        let buffer = PageBuffer::new(bytes_of(room)?)?;
        Ok(Self { before: Vec::with_capacity(runs.capacity()), runs, buffer })
    }

    /// Finds the written pages of a paused guest.
    pub(crate) fn find(&mut self, ram: &Ram, map: &mut PageMap) -> io::Result<()> {
        self.runs = written(ram, map, std::mem::take(&mut self.runs))?;
        self.before.clear();
        count_before(&self.runs, &mut self.before);
        Ok(())
    }

    /// Copies the pages that `find` found, of a guest that has been paused since.
    pub(crate) fn copy(&mut self, ram: &Ram) -> io::Result<()> {
        let size = bytes_of(pages_of(&self.runs))?;
        if size > self.buffer.bytes().len() {
            self.buffer.resize(size)?;
        }
        let mut rest = self.buffer.bytes_mut();
        for run in &self.runs {
            let (start, end) = (run.first * PAGE_SIZE, run.end() * PAGE_SIZE);
            for (window, region) in ram.windows() {
                let from = start.max(window.file_offset);
                let to = end.min(window.file_offset.saturating_add(window.size));
                if from >= to {
                    continue;
                }
                let (offset, length) = ((from - window.file_offset) as usize, (to - from) as usize);
                let (now, later) = std::mem::take(&mut rest)
                    .split_at_mut_checked(length)
                    .ok_or(io::ErrorKind::InvalidInput)?;
                let source = region.as_volatile_slice();
                source.subslice(offset, length).map_err(io::Error::other)?.copy_to(now);
                rest = later;
            }
        }
        Ok(())
    }

    /// Gives unused room back.
    pub(crate) fn trim(&mut self) {
        if let Ok(size) = bytes_of(pages_of(&self.runs)) {
            // A host that does not take it leaves the block as it was.
            let _ = self.buffer.resize(size);
        }
    }

    /// Moves the pages, one after the other, into a sealed file in memory, which another process
    /// can turn back with [`DirtyPages::from_file`]. Both copies of a page exist only for moments.
    ///
    /// # Errors
    /// The host has no memory or no descriptors left.
    pub fn into_file(mut self) -> io::Result<(Vec<Run>, File)> {
        let file = os::memory_file()?;
        let mut end = bytes_of(self.count())?;
        while end > 0 {
            let start = (end - 1) / PIECE * PIECE;
            let piece = self.buffer.bytes().get(start..end).ok_or(io::ErrorKind::InvalidInput)?;
            file.write_all_at(piece, start as u64)?;
            // The first piece goes with the buffer.
            if start > 0 {
                self.buffer.resize(start)?;
            }
            end = start;
        }
        os::seal(&file)?;
        Ok((self.runs, file))
    }

    /// The pages of a machine with this much memory, from numbers and a file that another process,
    /// which need not be trusted, made with [`DirtyPages::into_file`]. The file is mapped, not
    /// read.
    ///
    /// # Errors
    /// The numbers do not rise or are beyond the memory, or the file is not sealed or has another
    /// size.
    pub fn from_file(runs: Vec<Run>, file: &File, memory_size: u64) -> io::Result<Self> {
        validate_runs("pages", &runs, memory_size / PAGE_SIZE)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let buffer = match bytes_of(pages_of(&runs))? {
            0 => PageBuffer::new(0)?,
            size => PageBuffer::of_sealed(file, size)?,
        };
        let mut before = Vec::with_capacity(runs.len());
        count_before(&runs, &mut before);
        Ok(Self { runs, before, buffer })
    }

    /// The pages' numbers, in rising order. Pages are counted as in [`Run`]: in guest RAM, without
    /// holes.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The number of pages.
    #[must_use]
    pub fn count(&self) -> u64 {
        pages_of(&self.runs)
    }

    /// A page's content; `None` if it was not written.
    #[must_use]
    pub fn page(&self, page: u64) -> Option<&[u8; SIZE]> {
        let index = self.runs.partition_point(|run| run.first <= page).checked_sub(1)?;
        let (run, before) = (self.runs.get(index)?, self.before.get(index)?);
        let place = before + page.checked_sub(run.first).filter(|at| *at < run.count.into())?;
        let start = usize::try_from(place).ok()?.checked_mul(SIZE)?;
        self.buffer.bytes().get(start..)?.first_chunk()
    }

    /// The content of each run.
    pub(super) fn contents(&self) -> impl Iterator<Item = (&Run, &[u8])> {
        let starts = self.before.iter().map(|before| (before * PAGE_SIZE) as usize);
        self.runs.iter().zip(starts).filter_map(|(run, start)| {
            let size = run.count as usize * SIZE;
            Some((run, self.buffer.bytes().get(start..)?.get(..size)?))
        })
    }

    /// The pages with their numbers, in rising order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8; SIZE])> {
        let numbers = self.runs.iter().flat_map(|run| run.first..run.end());
        numbers.zip(self.buffer.bytes().as_chunks().0)
    }
}

/// The written pages of all windows. Reuses the memory of `runs`.
fn written(ram: &Ram, map: &mut PageMap, mut runs: Vec<Run>) -> io::Result<Vec<Run>> {
    runs.clear();
    for (window, region) in ram.windows() {
        let first = window.file_offset / PAGE_SIZE;
        map.written(region, PAGE_SIZE, |page, count| append(&mut runs, first + page, count))?;
    }
    Ok(runs)
}

/// Appends pages to the last run, or as a new one.
pub(super) fn append(runs: &mut Vec<Run>, mut first: u64, mut count: u64) {
    while count > 0 {
        let piece = match runs.last_mut() {
            Some(last) if last.end() == first && last.count < u32::MAX => {
                let piece = u32::try_from(count).unwrap_or(u32::MAX).min(u32::MAX - last.count);
                last.count += piece;
                piece
            }
            _ => {
                let piece = u32::try_from(count).unwrap_or(u32::MAX);
                runs.push(Run { first, count: piece });
                piece
            }
        };
        first += u64::from(piece);
        count -= u64::from(piece);
    }
}

/// Appends the number of pages before each run.
fn count_before(runs: &[Run], before: &mut Vec<u64>) {
    let mut count = 0;
    for run in runs {
        before.push(count);
        count += u64::from(run.count);
    }
}

fn pages_of(runs: &[Run]) -> u64 {
    runs.iter().map(|run| u64::from(run.count)).sum()
}

fn bytes_of(pages: u64) -> io::Result<usize> {
    let bytes = pages.checked_mul(PAGE_SIZE).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}
