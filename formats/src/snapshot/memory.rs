//! Which pages of guest memory a snapshot holds itself, on top of its parent's.
//!
//! A run is a stretch of pages that lie next to each other in guest memory and in the pages
//! blob. Runs are sorted and do not touch or overlap; what no run names is the parent's
//! page, or zero where there is no parent.

use alloc::vec::Vec;

use crate::Digest;
use crate::codec::DecodeError;
use crate::record::record;

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;

record! {
    /// A snapshot's own pages.
    pub struct Memory {
        /// The blob with the pages of `own`, one after the other.
        blob: Digest,
        /// Pages that the blob holds.
        own: Vec<Run>,
        /// Pages that are zero here and were not in the parent.
        zeroed: Vec<Run>,
    }
}

record! {
    /// Pages that follow each other. Pages are counted in guest RAM, without the holes of the
    /// guest's address space.
    #[derive(Copy, Default)]
    pub struct Run {
        /// The first page's number.
        first: u64,
        /// How many pages.
        count: u32,
    }
}

impl Run {
    /// The number after the last page.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.count.into())
    }
}

impl Memory {
    /// Pages in the blob.
    #[must_use]
    pub fn own_pages(&self) -> u64 {
        self.own.iter().map(|run| u64::from(run.count)).sum()
    }

    /// Checks the runs against a memory of `pages` pages.
    ///
    /// # Errors
    /// A run that is empty, out of order, or out of the memory.
    pub fn validate(&self, pages: u64) -> Result<(), DecodeError> {
        validate_runs("own", &self.own, pages)?;
        validate_runs("zeroed", &self.zeroed, pages)
    }
}

/// Checks that `runs` are not empty, sorted, disjoint and within `pages` pages.
///
/// # Errors
/// [`DecodeError::Illegal`] with the first run at fault; its offset is its place in the list.
pub fn validate_runs(field: &'static str, runs: &[Run], pages: u64) -> Result<(), DecodeError> {
    let mut next = 0;
    for (offset, run) in runs.iter().enumerate() {
        if run.count == 0 || run.first < next || run.end() > pages {
            return Err(DecodeError::Illegal { field, offset, value: run.first });
        }
        next = run.end();
    }
    Ok(())
}

/// Gathers page numbers, given in rising order, into runs.
#[must_use]
pub fn runs_of(pages: impl IntoIterator<Item = u64>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some(run) if run.end() == page && run.count < u32::MAX => run.count += 1,
            _ => runs.push(Run { first: page, count: 1 }),
        }
    }
    runs
}
