//! What a guest changes on a disk that it may only read: kept in memory, in front of the disk, and dropped
//! with it. A guest replays a file system's journal before it can read it.

use std::collections::BTreeMap;

/// The unit in which changes are kept.
const BLOCK: u64 = BLOCK_SIZE as u64;
const BLOCK_SIZE: usize = 4096;
/// The most blocks: a journal, and what a file system marks when it is mounted.
const MAX_BLOCKS: usize = (64 << 20) / BLOCK_SIZE;

/// Blocks by their numbers.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<u64, Box<[u8]>>);

impl Changes {
    /// Puts changed blocks over `bytes`, which were read at `start`.
    pub(super) fn cover(&self, start: u64, bytes: &mut [u8]) {
        let end = start.saturating_add(bytes.len() as u64);
        for (number, block) in self.0.range(start / BLOCK..end.div_ceil(BLOCK)) {
            let at = number * BLOCK;
            let skipped = usize::try_from(start.saturating_sub(at)).unwrap_or(usize::MAX);
            let before = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
            let to = bytes.iter_mut().skip(before);
            to.zip(block.iter().skip(skipped)).for_each(|(to, from)| *to = *from);
        }
    }

    /// Keeps `bytes`, which are written at `start`. `read` reads a block from the disk. `None` if there
    /// are too many changes, or the disk cannot be read.
    pub(super) fn write(
        &mut self,
        start: u64,
        bytes: &[u8],
        read: impl Fn(u64, &mut [u8]) -> Option<()>,
    ) -> Option<()> {
        let mut rest = bytes;
        let mut at = start;
        while !rest.is_empty() {
            let (number, skipped) = (at / BLOCK, usize::try_from(at % BLOCK).ok()?);
            if !self.0.contains_key(&number) {
                if self.0.len() >= MAX_BLOCKS {
                    return None;
                }
                let mut block = vec![0; BLOCK_SIZE].into_boxed_slice();
                read(number * BLOCK, &mut block)?;
                self.0.insert(number, block);
            }
            let room = self.0.get_mut(&number)?.get_mut(skipped..)?;
            let (now, later) = rest.split_at(room.len().min(rest.len()));
            room.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
            at += now.len() as u64;
            rest = later;
        }
        Some(())
    }
}
