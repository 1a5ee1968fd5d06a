//! The unit of tar archives.

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;
/// The same, for offsets.
pub(super) const BLOCK_U64: u64 = 512;
