//! Written pages without a guest.

use std::os::unix::fs::FileExt;

use supermachine_formats::snapshot::memory::{PAGE_SIZE, runs_of};

use super::dirty::DirtyPages;
use crate::os;

/// Pages with these numbers, in rising order, each full of one byte.
pub(crate) fn written_pages(numbers: &[u64], byte: u8) -> DirtyPages {
    let file = os::memory_file().unwrap();
    file.write_all_at(&vec![byte; numbers.len() * PAGE_SIZE as usize], 0).unwrap();
    os::seal(&file).unwrap();
    DirtyPages::from_file(runs_of(numbers.iter().copied()), &file, 1 << 40).unwrap()
}
