//! The pages that a guest wrote as an overlay in memory, which other machines map.
//!
//! Every run of an overlay is a mapping of each machine, and the guest's writes are scattered. The
//! overlay therefore has few runs: it also holds pages between those that were written.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use supermachine_formats::snapshot::memory::{PAGE_SIZE, Run};

use super::dirty::{DirtyPages, append};
use super::ram::{MemoryFiles, Overlay};
use crate::os;

/// The number of runs that an overlay should have at most.
const FEW_RUNS: usize = 12;
/// Runs with at most this many pages between them are joined in any case: copying those costs less
/// than a mapping does.
const CLOSE: u64 = 8;
/// The number of pages between written ones that may be copied for the sake of few runs, or half as
/// many as there are written ones.
const MAX_COPIES: u64 = 256;

impl Overlay {
    /// An overlay over `origin` with the pages of `written`, and behind them those of `before`,
    /// which is one over the same origin. It is a sealed file in memory.
    ///
    /// # Errors
    /// The host has no memory or no descriptors left, or a page of the origin cannot be read.
    pub fn of_pages(
        written: &DirtyPages,
        before: Option<&Self>,
        origin: &MemoryFiles,
        memory_size: u64,
    ) -> io::Result<Self> {
        let earlier = before.map_or(&[][..], |overlay| &overlay.runs);
        let runs = joined(&[written.runs(), earlier].concat());
        let file = os::memory_file()?;
        file.set_len(memory_size)?;
        for (run, content) in written.contents() {
            file.write_all_at(content, run.first * PAGE_SIZE)?;
        }
        let mut behind = origin.clone();
        behind.overlays.extend(before.cloned());
        let mut content = Vec::new();
        for gap in runs.iter().flat_map(|run| gaps(run, written.runs())) {
            content.resize(((gap.end - gap.start) * PAGE_SIZE) as usize, 0);
            behind.read_pages(gap.start, &mut content)?;
            file.write_all_at(&content, gap.start * PAGE_SIZE)?;
        }
        os::seal(&file)?;
        Ok(Self { file: Arc::new(file), runs: runs.into() })
    }
}

/// The pages of a run that are in none of `runs`, which are in rising order.
fn gaps(run: &Run, runs: &[Run]) -> Vec<Range<u64>> {
    let from = runs.partition_point(|other| other.end() <= run.first);
    let mut gaps = Vec::new();
    let mut at = run.first;
    for other in runs.iter().skip(from).take_while(|other| other.first < run.end()) {
        gaps.push(at..other.first.max(at));
        at = other.end();
    }
    gaps.push(at..run.end().max(at));
    gaps.retain(|gap| !gap.is_empty());
    gaps
}

/// Joins runs that touch or are close to each other, and then the closest ones, until there are few
/// or too many pages would be copied.
fn joined(runs: &[Run]) -> Vec<Run> {
    let mut runs = runs.to_vec();
    runs.sort_by_key(|run| run.first);
    let mut stretches: Vec<Range<u64>> = Vec::new();
    for run in runs {
        match stretches.last_mut().filter(|last| run.first <= last.end) {
            Some(last) => last.end = last.end.max(run.end()),
            None => stretches.push(run.first..run.end()),
        }
    }
    let limit = widest_gap_to_join(&stretches);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for stretch in stretches {
        match joined.last_mut().filter(|last| stretch.start - last.end <= limit) {
            Some(last) => last.end = stretch.end,
            None => joined.push(stretch),
        }
    }
    let mut runs = Vec::new();
    joined.iter().for_each(|range| append(&mut runs, range.start, range.end - range.start));
    runs
}

fn widest_gap_to_join(stretches: &[Range<u64>]) -> u64 {
    let written: u64 = stretches.iter().map(|stretch| stretch.end - stretch.start).sum();
    let followers = stretches.iter().skip(1);
    let mut gaps: Vec<u64> =
        stretches.iter().zip(followers).map(|(one, next)| next.start - one.end).collect();
    gaps.sort_unstable();
    let mut copies = 0;
    let mut left = stretches.len();
    let mut limit = CLOSE;
    // All gaps of one size are joined together.
    for gaps in gaps.chunk_by(|one, other| one == other) {
        let size = gaps.first().copied().unwrap_or(0);
        copies += size * gaps.len() as u64;
        if size > CLOSE && (left <= FEW_RUNS || copies > MAX_COPIES.max(written / 2)) {
            break;
        }
        left -= gaps.len();
        limit = limit.max(size);
    }
    limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::written_pages;

    const PAGES: u64 = 4096;

    fn origin(page: impl Fn(u64) -> u8) -> MemoryFiles {
        let file = tempfile::tempfile().unwrap();
        for number in 0..PAGES {
            file.write_all_at(&[page(number); PAGE_SIZE as usize], number * PAGE_SIZE).unwrap();
        }
        Arc::new(file).into()
    }

    fn first_bytes(files: &MemoryFiles) -> Vec<u8> {
        let mut content = [0; PAGE_SIZE as usize];
        let mut read = |page| {
            files.read_page(page, &mut content).unwrap();
            content[0]
        };
        (0..PAGES).map(&mut read).collect()
    }

    #[test]
    fn overlay_shows_the_latest_content_of_each_page() {
        let base = origin(|page| u8::from(page % 3 == 0));
        let mut expected = first_bytes(&base);
        let mut write = |pages: &[u64], with: u8| {
            pages.iter().for_each(|page| expected[*page as usize] = with);
            (written_pages(pages, with), expected.clone())
        };
        let (pages, content) = write(&[3, 4, 9, 200, 201, 4095], 7);
        let size = PAGES * PAGE_SIZE;
        let first = Overlay::of_pages(&pages, None, &base, size).unwrap();
        let seen = |layer: &Overlay| {
            first_bytes(&MemoryFiles { overlays: vec![layer.clone()], ..base.clone() })
        };
        assert!(seen(&first) == content);
        // A second one takes the place of the first.
        let (pages, content) = write(&[4, 10, 3000], 9);
        let second = Overlay::of_pages(&pages, Some(&first), &base, size).unwrap();
        assert!(seen(&second) == content);
        assert!(second.file.write_all_at(b"x", 0).is_err());
    }

    #[test]
    fn scattered_pages_become_few_runs() {
        let run = |first, count| Run { first, count };
        assert_eq!(joined(&[]), []);
        assert_eq!(joined(&[run(5, 1), run(6, 2)]), [run(5, 3)]);
        assert_eq!(joined(&[run(100, 10), run(0, 1), run(102, 2)]), [run(0, 1), run(100, 10)]);
        assert_eq!(joined(&[run(0, 1), run(1 + CLOSE, 1)]), [run(0, 2 + CLOSE as u32)]);
        // The closest ones are joined first.
        let scattered: Vec<Run> = (0..20).map(|at| run(at * at * 4, 1)).collect();
        let few = joined(&scattered);
        assert_eq!(few.len(), FEW_RUNS);
        assert_eq!(few.last(), Some(&run(1444, 1)));
        let is_in = |page: &Run| few.iter().any(|run| (run.first..run.end()).contains(&page.first));
        assert!(scattered.iter().all(is_in));
    }

    #[test]
    fn overlay_of_scattered_pages_copies_no_more_than_is_worth_it() {
        let even: Vec<Run> = (0..1000).map(|at| Run { first: at * 1000, count: 1 }).collect();
        assert_eq!(joined(&even), even);
        let even: Vec<Run> = (0..10).map(|at| Run { first: at * 1000, count: 1 }).collect();
        assert_eq!(joined(&even), even);
    }
}
