//! Pages of guest memory, and runs of them.
//!
//! A run is a stretch of consecutive pages. Runs in a list are sorted and do not overlap.

use alloc::vec::Vec;

use crate::codec::DecodeError;
use crate::record::record;

/// Size of a page in bytes.
pub const PAGE_SIZE: u64 = 4096;

record! {
    /// Consecutive pages. Page numbers count guest RAM and skip the holes of the guest's address
    /// space.
    #[derive(Copy, Default)]
    pub struct Run {
        /// The first page's number.
        first: u64,
        /// The number of pages.
        count: u32,
    }
}

record! {
    /// Pages worth populating before the guest runs.
    #[derive(Default)]
    pub struct WorkingSet {
        /// Pages that the guest writes.
        written: Vec<Run>,
        /// Pages that the guest only reads.
        read: Vec<Run>,
    }
}

impl WorkingSet {
    /// Checks both lists against a memory of `pages` pages.
    pub(super) fn validate(&self, pages: u64) -> Result<(), DecodeError> {
        validate_runs("written", &self.written, pages)?;
        validate_runs("read", &self.read, pages)
    }
}

impl Run {
    /// Returns the number after the last page.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.count.into())
    }
}

/// Checks that every run has pages, and that `runs` are sorted, disjoint and within `pages` pages.
///
/// # Errors
/// [`DecodeError::Illegal`] for the first run at fault, with its index as the offset.
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

/// Gathers rising page numbers into runs.
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
