//! File contents on their way from the layers to the image.
//!
//! Owns the scratch file: one sequential stream that every file's bytes are appended to,
//! and the [`Content`] that says where in it they went. Does not know names or trees.
//! Invariant: the extents of a [`Content`] ascend, do not overlap, lie inside the file's
//! size, and name bytes that were written; what no extent covers is zeros.

use std::io::{self, Write};

use super::error::EntryError;

/// What all files of one image may take in the scratch file.
const MAX_LENGTH: u64 = 64 << 30;
/// The largest size of one file, holes included.
const MAX_FILE_SIZE: u64 = 16 << 40;
/// The unit in which runs of zeros are looked for. Archivers of container tools know no
/// sparse files, so that a sparse `lastlog` arrives as gigabytes of zeros.
const BLOCK: usize = 64 << 10;

/// Where the bytes of one file are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// The file's size, holes included.
    pub(super) size: u64,
    /// The parts that are not holes.
    pub(super) extents: Vec<Extent>,
}

/// A part of a file that was written to the scratch file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Where the part starts in the file.
    pub(super) start: u64,
    /// Where it starts in the scratch file.
    pub(super) spooled: u64,
    /// Its length in bytes, never zero.
    pub(super) length: u64,
}

impl Extent {
    /// Where the part ends in the file.
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }
}

/// A part of a file as an archive gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) length: u64,
}

/// Why contents could not be put aside.
#[derive(Debug)]
pub(super) enum StoreError<E> {
    /// Reading the contents failed.
    Source(E),
    /// Writing the scratch file failed.
    Write(io::Error),
    /// The file breaks a rule.
    Refused(EntryError),
}

/// Takes the contents of files, one after another.
#[derive(Debug)]
pub struct Spool<W> {
    out: W,
    length: u64,
    block: Vec<u8>,
}

impl<W: Write> Spool<W> {
    /// Starts with nothing written to `out`.
    pub fn new(out: W) -> Self {
        Self { out, length: 0, block: vec![0; BLOCK] }
    }

    /// Ends writing and gives the sink back.
    ///
    /// # Errors
    /// The sink's own, when it cannot be flushed.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }

    /// Appends one file of `size` bytes. `fill` is called for the bytes of `segments` in
    /// order, and must fill the whole buffer that it is given.
    pub(super) fn store<E>(
        &mut self,
        size: u64,
        segments: &[Segment],
        mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Content, StoreError<E>> {
        if size > MAX_FILE_SIZE {
            let refused = EntryError::FileTooLarge { size, limit: MAX_FILE_SIZE };
            return Err(StoreError::Refused(refused));
        }
        let mut content = Content { size, extents: Vec::new() };
        let mut block = std::mem::take(&mut self.block);
        for segment in segments {
            let (mut position, mut left) = (segment.start, segment.length);
            while left > 0 {
                let to_boundary = BLOCK - block_offset(position);
                let count = usize::try_from(left).map_or(to_boundary, |left| left.min(to_boundary));
                let Some(part) = block.get_mut(..count) else { break };
                fill(part).map_err(StoreError::Source)?;
                if count < BLOCK || !is_zero(part) {
                    self.append(&mut content, position, part)?;
                }
                position = position.saturating_add(count as u64);
                left -= count as u64;
            }
        }
        self.block = block;
        Ok(content)
    }

    fn append<E>(
        &mut self,
        content: &mut Content,
        start: u64,
        part: &[u8],
    ) -> Result<(), StoreError<E>> {
        let length = part.len() as u64;
        if self.length.saturating_add(length) > MAX_LENGTH {
            let refused = EntryError::TooMuchContent { limit: MAX_LENGTH };
            return Err(StoreError::Refused(refused));
        }
        self.out.write_all(part).map_err(StoreError::Write)?;
        match content.extents.last_mut() {
            Some(last) if last.end() == start => last.length += length,
            _ => content.extents.push(Extent { start, spooled: self.length, length }),
        }
        self.length += length;
        Ok(())
    }
}

fn block_offset(position: u64) -> usize {
    // The remainder is below BLOCK, which every usize holds.
    usize::try_from(position % BLOCK as u64).unwrap_or(0)
}

fn is_zero(bytes: &[u8]) -> bool {
    // Whole chunks without an early exit let the compiler compare many bytes at once.
    bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn store(size: u64, segments: &[Segment], mut bytes: &[u8]) -> (Content, Vec<u8>) {
        let mut spool = Spool::new(Vec::new());
        let content = spool.store(size, segments, |part| bytes.read_exact(part)).unwrap();
        (content, spool.finish().unwrap())
    }

    #[test]
    fn spool_of_dense_file_keeps_one_extent() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
        let whole = Segment { start: 0, length: 200_000 };
        let (content, spooled) = store(200_000, &[whole], &bytes);
        assert_eq!(content.extents, [Extent { start: 0, spooled: 0, length: 200_000 }]);
        assert_eq!(spooled, bytes);
    }

    #[test]
    fn spool_of_long_zeros_leaves_a_hole() {
        let mut bytes = vec![0; 4 * BLOCK + 10];
        bytes[0] = 1;
        let whole = Segment { start: 0, length: bytes.len() as u64 };
        let (content, spooled) = store(bytes.len() as u64, &[whole], &bytes);
        let block = BLOCK as u64;
        let tail = Extent { start: 4 * block, spooled: block, length: 10 };
        assert_eq!(content.extents, [Extent { start: 0, spooled: 0, length: block }, tail]);
        assert_eq!(spooled.len(), BLOCK + 10);
    }

    #[test]
    fn spool_of_sparse_segments_joins_neighbours_only() {
        let segments = [
            Segment { start: 10, length: 2 },
            Segment { start: 12, length: 2 },
            Segment { start: 100, length: 1 },
        ];
        let (content, _) = store(200, &segments, b"abcde");
        let first = Extent { start: 10, spooled: 0, length: 4 };
        assert_eq!(content.extents, [first, Extent { start: 100, spooled: 4, length: 1 }]);
    }

    #[test]
    fn spool_of_monstrous_file_is_refused() {
        let mut spool = Spool::new(io::sink());
        let result = spool.store(u64::MAX, &[], |_| Ok::<(), io::Error>(()));
        assert!(matches!(result, Err(StoreError::Refused(EntryError::FileTooLarge { .. }))));
    }
}
