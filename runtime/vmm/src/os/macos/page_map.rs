//! Which pages of this process's mappings are present, and how, by `mincore`.
//!
//! A written page of a private mapping is anonymous memory; one that was only read belongs to the
//! file. Where nothing is present, the answer says neither.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::sealed::memory_file;
use crate::os::unix::mmap::{Protection, host_page_size, map_private};
use crate::os::unix::page_state::{PageState, report_present};

const MINCORE_INCORE: u8 = 0x01;
const MINCORE_PAGED_OUT: u8 = 0x20;
const MINCORE_ANONYMOUS: u8 = 0x80;
/// What an answer that is not understood means.
const UNRELIABLE: &str = "mincore does not tell written pages from others";
/// Pages asked about at once.
const BATCH: u64 = 1 << 16;

/// Which pages of this process's mappings are present, and how.
#[derive(Debug)]
pub(crate) struct PageMap {
    flags: Vec<u8>,
}

impl PageMap {
    /// Allocates room for answers.
    ///
    /// # Errors
    /// The system's answers are not those that this module relies on: a written page that is taken
    /// for another would be lost.
    pub(crate) fn open() -> io::Result<Self> {
        static IS_RELIABLE: OnceLock<bool> = OnceLock::new();
        let mut map = Self { flags: vec![0; BATCH as usize] };
        let is_reliable = match IS_RELIABLE.get() {
            Some(known) => *known,
            None => {
                let found = map.is_reliable()?;
                *IS_RELIABLE.get_or_init(|| found)
            }
        };
        if is_reliable { Ok(map) } else { Err(io::Error::other(UNRELIABLE)) }
    }

    /// Whether the answers for a mapping with a page of each state are right.
    fn is_reliable(&mut self) -> io::Result<bool> {
        let page = host_page_size();
        let file = memory_file()?;
        file.write_all_at(&vec![1; 3 * page as usize], 0)?;
        let offset = FileOffset::new(file, 0);
        let region = map_private(offset, 3 * page, Protection::ReadWrite)?;
        let memory = region.as_volatile_slice();
        let at = |index: u64| (index * page) as usize;
        memory.read_obj::<u8>(at(0)).map_err(io::Error::other)?;
        memory.write_obj(2_u8, at(1)).map_err(io::Error::other)?;
        let mut written = Vec::new();
        self.written(&region, page, |first, count| written.push((first, count)))?;
        Ok(written == [(1, 1)])
    }

    /// Calls `report` for each range of written pages of a private mapping, in rising order, with its
    /// first page, counted from the region's start, and its length. Adjacent pages may come in
    /// several ranges.
    ///
    /// # Errors
    /// The system does not answer.
    pub(crate) fn written(
        &mut self,
        region: &MmapRegion,
        page_size: u64,
        mut report: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        self.in_place(region, page_size, |first, count, is_written| {
            if is_written {
                report(first, count);
            }
        })
    }

    /// The same for all present pages, with whether they were written.
    ///
    /// # Errors
    /// The system does not answer.
    pub(crate) fn in_place(
        &mut self,
        region: &MmapRegion,
        page_size: u64,
        mut report: impl FnMut(u64, u64, bool),
    ) -> io::Result<()> {
        let host_page = host_page_size();
        let parts = (host_page / page_size).max(1);
        let pages = (region.size() as u64).div_ceil(host_page);
        let mut first = 0;
        while first < pages {
            let count = (pages - first).min(BATCH);
            let start = region.as_ptr().wrapping_add((first * host_page) as usize);
            let length = (count * host_page) as usize;
            // SAFETY: `flags` has room for a byte for each of at most `BATCH` pages, and the range
            // is only examined.
            let answer =
                unsafe { libc::mincore(start.cast(), length, self.flags.as_mut_ptr().cast()) };
            if answer != 0 {
                return Err(io::Error::last_os_error());
            }
            let states = self.flags.iter().take(count as usize).map(|flags| state(*flags));
            report_present(states, first, parts, &mut report);
            first += count;
        }
        Ok(())
    }
}

fn state(flags: u8) -> PageState {
    let has = |flag| flags & flag != 0;
    match (has(MINCORE_INCORE) || has(MINCORE_PAGED_OUT), has(MINCORE_ANONYMOUS)) {
        (false, _) => PageState::Absent,
        (true, false) => PageState::Read,
        (true, true) => PageState::Written,
    }
}
