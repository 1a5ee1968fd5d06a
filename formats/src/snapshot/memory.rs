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
    /// All pages, in rising order, adjacent ones in one run.
    #[must_use]
    pub fn merged(&self) -> Vec<Run> {
        let mut all: Vec<Run> = self.written.iter().chain(&self.read).copied().collect();
        // Stable, which merges two sorted lists without sorting them again.
        all.sort_by_key(|run| run.first);
        let mut merged: Vec<Run> = Vec::with_capacity(all.len());
        for run in all {
            match merged.last_mut() {
                Some(last) if run.first <= last.end() => {
                    let end = last.end().max(run.end());
                    last.count = u32::try_from(end - last.first).unwrap_or(u32::MAX);
                }
                _ => merged.push(run),
            }
        }
        merged
    }

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

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn merged_runs_are_the_pages_of_both_lists() {
        let run = |first, count| Run { first, count };
        let set = WorkingSet {
            written: vec![run(1, 2), run(8, 1), run(20, 10)],
            read: vec![run(3, 1), run(10, 2), run(22, 3)],
        };
        assert_eq!(set.merged(), [run(1, 3), run(8, 1), run(10, 2), run(20, 10)]);
        assert_eq!(WorkingSet::default().merged(), []);
    }
}
