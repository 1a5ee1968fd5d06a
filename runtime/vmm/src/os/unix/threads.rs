//! How many threads to start.

use std::num::NonZero;
use std::sync::OnceLock;
use std::thread;

/// The number of threads to start for `pieces` of work: one per processor, with at least `each`
/// pieces for every thread but the last.
#[must_use]
pub fn threads_for(pieces: usize, each: usize) -> usize {
    processors().min(pieces.div_ceil(each)).max(1)
}

/// The processors that this process may use, counted once, as that reads files.
pub(in crate::os) fn processors() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| thread::available_parallelism().map_or(1, NonZero::get))
}
