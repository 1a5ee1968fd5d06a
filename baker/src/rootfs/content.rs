//! One file's bytes: in memory if they are few, in the spool otherwise.
//!
//! Invariants: the extents of a [`Content`] ascend, do not overlap, are within the file's size, are
//! contiguous in the scratch file, and start there on whole blocks; everything outside of extents is
//! zeros.

/// Runs of zeros shorter than this stay in the content: files without holes map best, and work with
/// kernels that do not support chunks.
pub(super) const MIN_HOLE: u64 = 1 << 20;
/// The smallest chunk size, in bits. Holes start and end on chunk borders.
pub(super) const MIN_CHUNK_BITS: u32 = 16;
pub(super) const MAX_CHUNKS: u64 = 1 << 14;

/// The bytes of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// All of them; none for an empty file.
    Small(Box<[u8]>),
    /// Their location in the scratch file.
    Spooled(Spooled),
}

impl Content {
    /// The bytes of memory that it takes besides its own.
    pub(super) fn held(&self) -> usize {
        match self {
            // The spool bounds them.
            Self::Small(_) => 0,
            Self::Spooled(spooled) => {
                let extents = spooled.extents.len().saturating_mul(size_of::<Extent>());
                let chunks = spooled.chunk_count().saturating_mul(size_of::<u32>());
                extents.saturating_add(chunks)
            }
        }
    }
}

/// The location of one file's bytes in the scratch file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spooled {
    /// The file's size, holes included.
    pub(super) size: u64,
    /// The parts that are not holes.
    pub(super) extents: Vec<Extent>,
}

impl Spooled {
    /// Whether the file has holes. If not, it has one extent, or is empty.
    pub(super) fn has_holes(&self) -> bool {
        self.extents.iter().map(|extent| extent.length).sum::<u64>() < self.size
    }

    /// Holes start and end on multiples of `1 << chunk_bits`, or at the end of the file. No file has more
    /// than a few thousand chunks of that size.
    pub(super) fn chunk_bits(&self) -> u32 {
        let mut bits = MIN_CHUNK_BITS;
        while self.size.div_ceil(1 << bits) > MAX_CHUNKS {
            bits += 1;
        }
        bits
    }

    /// The number of chunks of a file with holes; zero for a file without.
    pub(super) fn chunk_count(&self) -> usize {
        let count = if self.has_holes() { self.size.div_ceil(1 << self.chunk_bits()) } else { 0 };
        // At most MAX_CHUNKS.
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// The end of the last extent in the file.
    pub(super) fn end(&self) -> u64 {
        self.extents.last().map_or(0, Extent::end)
    }

    /// The hole between the last extent and `to`, if it is large enough.
    pub(super) fn hole_before(&self, to: u64) -> Option<std::ops::Range<u64>> {
        let chunk = 1 << self.chunk_bits();
        let start = self.end().next_multiple_of(chunk);
        let end = if to == self.size { to } else { to - to % chunk };
        (end.saturating_sub(start) >= MIN_HOLE).then_some(start..end)
    }
}

/// A part of a file in the scratch file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Its offset in the file.
    pub(super) start: u64,
    /// Its offset in the scratch file.
    pub(super) spooled: u64,
    /// Its length in bytes, never zero.
    pub(super) length: u64,
}

impl Extent {
    /// The end of the part in the file.
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }
}
