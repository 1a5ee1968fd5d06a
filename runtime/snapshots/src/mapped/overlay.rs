//! Which stretches of a memory an overlay covers.
//!
//! A machine maps the base's file and the overlay's, by turns. Every mapping slows down the start of
//! this machine and of all others in the process, because the hypervisor walks all mappings when it
//! creates a VM. An overlay therefore covers few stretches: it holds a copy of the base where the
//! base's chunks lie between its own. The longest stretches of the base stay in the base's file,
//! which all of its snapshots share.

use std::cmp::Reverse;
use std::ops::Range;

use supermachine_formats::pack::{CHUNK_SIZE, Layer, Space, ZERO};
use supermachine_formats::snapshot::memory::{PAGE_SIZE, Run};
use supermachine_formats::{Digest, Hasher};

const PAGES_A_CHUNK: u64 = CHUNK_SIZE / PAGE_SIZE;
/// The most mappings of a memory without a hole in its address space.
const MAX_MAPPINGS: usize = 4;

/// The stretches of an overlay over the first layer of a memory, in chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Coverage(Vec<Range<u32>>);

/// A stretch of the base that could stay in the base's file.
struct Gap {
    places: Range<u32>,
    /// The number of chunks that would have to be copied.
    copies: u64,
}

impl Coverage {
    /// Covers everything in which the younger layers of `memory` differ from its first.
    pub(super) fn of(memory: &Space) -> Self {
        let younger = stretches(&memory.flattened(1));
        let (Some(first), Some(last)) = (younger.first(), younger.last()) else {
            return Self(Vec::new());
        };
        let whole = 0..u32::try_from(memory.size / CHUNK_SIZE).unwrap_or(u32::MAX);
        let base = memory.layers.first().cloned().unwrap_or_default();
        let gap = |places: Range<u32>| Gap { copies: stored_within(&base, &places), places };
        let ends = [whole.start..first.start, last.end..whole.end].map(gap);
        let between = younger.iter().zip(younger.iter().skip(1));
        let inner = between.map(|(one, next)| gap(one.end..next.start)).collect();
        Self(without(&whole, kept(ends.into(), inner)))
    }

    /// The pages of the stretches.
    pub(super) fn runs(&self) -> Vec<Run> {
        let run = |places: &Range<u32>| Run {
            first: u64::from(places.start) * PAGES_A_CHUNK,
            count: (places.end - places.start) * PAGES_A_CHUNK as u32,
        };
        self.0.iter().map(run).collect()
    }

    /// The chunks of all layers of `memory` that are in the stretches.
    pub(super) fn chunks(&self, memory: &Space) -> Layer {
        memory.flattened(0).within(&self.0)
    }

    /// The identity of an overlay with these stretches of a memory with this identity.
    pub(super) fn identity(&self, memory: Digest) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(&memory.0);
        for places in &self.0 {
            hasher.update(&places.start.to_le_bytes());
            hasher.update(&places.end.to_le_bytes());
        }
        hasher.finish()
    }
}

/// The places that a layer names, adjacent ones as one range.
fn stretches(layer: &Layer) -> Vec<Range<u32>> {
    let mut stretches: Vec<Range<u32>> = Vec::new();
    for extent in &layer.extents {
        let end = extent.first + extent.count;
        match stretches.last_mut() {
            Some(last) if last.end == extent.first => last.end = end,
            _ => stretches.push(extent.first..end),
        }
    }
    stretches
}

/// The number of a layer's chunks in a range that are not zeros.
fn stored_within(layer: &Layer, places: &Range<u32>) -> u64 {
    let within = layer.within(std::slice::from_ref(places));
    let stored = within.extents.iter().filter(|extent| extent.chunk != ZERO);
    stored.map(|extent| u64::from(extent.count)).sum()
}

/// The gaps that save the most copies within the limit of mappings: one at an end of the memory adds
/// one mapping, one within it two. A gap that saves none is never kept.
fn kept(mut ends: Vec<Gap>, mut inner: Vec<Gap>) -> Vec<Gap> {
    for gaps in [&mut ends, &mut inner] {
        gaps.retain(|gap| gap.copies > 0);
        gaps.sort_by_key(|gap| Reverse(gap.copies));
    }
    let saved =
        |gaps: &[Gap], count: usize| -> u64 { gaps.iter().take(count).map(|gap| gap.copies).sum() };
    const ADDED: usize = MAX_MAPPINGS - 1;
    let choices = (0..=ADDED / 2).map(|of_inner| (of_inner, ADDED - 2 * of_inner));
    let best =
        choices.max_by_key(|&(of_inner, of_ends)| saved(&inner, of_inner) + saved(&ends, of_ends));
    let (of_inner, of_ends) = best.unwrap_or_default();
    inner.truncate(of_inner);
    ends.truncate(of_ends);
    inner.extend(ends);
    inner
}

/// What is left of a range without some gaps.
fn without(whole: &Range<u32>, mut gaps: Vec<Gap>) -> Vec<Range<u32>> {
    gaps.sort_by_key(|gap| gap.places.start);
    let mut left = Vec::new();
    let mut at = whole.start;
    for Gap { places, .. } in gaps {
        left.push(at..places.start);
        at = places.end;
    }
    left.push(at..whole.end);
    left.retain(|places| !places.is_empty());
    left
}

#[cfg(test)]
mod tests {
    use supermachine_formats::pack::Extent;

    use super::*;

    const CHUNKS: u32 = 100;

    /// A memory whose base stores the chunks `base`, and whose younger layer has those in `younger`.
    fn memory(base: &[(u32, u32)], younger: &[(u32, u32)]) -> Space {
        let mut number = 0;
        let mut layer = |places: &[(u32, u32)]| {
            let extent = |&(first, end): &(u32, u32)| {
                let count = end - first;
                number += count;
                Extent { first, count, chunk: number - count }
            };
            Layer { extents: places.iter().map(extent).collect() }
        };
        let layers = vec![layer(base), layer(younger)];
        Space { size: u64::from(CHUNKS) * CHUNK_SIZE, layers }
    }

    fn coverage(base: &[(u32, u32)], younger: &[(u32, u32)]) -> Vec<(u32, u32)> {
        let covered = Coverage::of(&memory(base, younger)).0;
        covered.into_iter().map(|places| (places.start, places.end)).collect()
    }

    #[test]
    fn gap_without_content_is_covered_for_free() {
        assert_eq!(coverage(&[(10, 11)], &[(10, 11), (40, 41), (90, 91)]), [(0, 100)]);
    }

    #[test]
    fn longest_stretches_of_the_base_stay_in_its_file() {
        let younger = [(5, 6), (20, 22), (60, 61), (70, 71)];
        // Within, 22..60 stores most; before and after, what follows 71.
        assert_eq!(coverage(&[(0, 90)], &younger), [(0, 22), (60, 71)]);
        // Without a long stretch within, both ends are kept.
        assert_eq!(coverage(&[(0, 90)], &[(40, 41), (43, 44)]), [(40, 44)]);
        assert_eq!(coverage(&[(20, 40), (41, 50)], &[(40, 41)]), [(40, 41)]);
    }

    #[test]
    fn no_memory_takes_more_mappings_than_allowed() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |limit: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u32::try_from(state % limit).unwrap()
        };
        for _ in 0..2000 {
            let mut some = |most: u64| {
                let mut places = Vec::new();
                let mut at = random(8);
                while at < CHUNKS {
                    let end = (at + 1 + random(most)).min(CHUNKS);
                    places.push((at, end));
                    at = end + 1 + random(most);
                }
                places
            };
            let (base, younger) = (some(20), some(6));
            let memory = memory(&base, &younger);
            let covered = Coverage::of(&memory);
            let is_covered = |place: u32| covered.0.iter().any(|places| places.contains(&place));
            assert!(memory.flattened(1).chunks().all(|(place, _)| is_covered(place)));
            let turns = (1..CHUNKS).filter(|&at| is_covered(at) != is_covered(at - 1)).count();
            assert!(turns < MAX_MAPPINGS, "{covered:?} over {younger:?}");
            // The overlay holds what all layers together hold there.
            let flat = memory.flattened(0);
            let expected: Vec<_> = flat.chunks().filter(|(place, _)| is_covered(*place)).collect();
            assert_eq!(covered.chunks(&memory).chunks().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn other_stretches_of_the_same_memory_have_another_identity() {
        let identity = |covered: &[(u32, u32)]| {
            let covered = covered.iter().map(|&(start, end)| start..end).collect();
            Coverage(covered).identity(Digest([7; 32]))
        };
        assert_ne!(identity(&[(0, 2)]), identity(&[(0, 3)]));
        assert_ne!(identity(&[(0, 2), (4, 5)]), identity(&[(0, 5)]));
        assert_eq!(identity(&[(0, 2), (4, 5)]), identity(&[(0, 2), (4, 5)]));
    }
}
