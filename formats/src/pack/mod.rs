//! The portable form of a snapshot: 64 KiB chunks in blobs, and the index that finds them.
//!
//! Owns the bytes of the index, the media types, and the limits that bound a hostile pack. Does
//! not compress, read files or parse OCI documents. Invariant: a decoded [`Index`] names only
//! chunks within its blobs, and places them only within its spaces.

mod index;
#[cfg(test)]
mod tests;

pub use index::{
    Blob, Chunk, Extent, INDEX_HEADER_SIZE, INDEX_MAGIC, INDEX_VERSION, Index, IndexError, Layer,
    MAX_BLOBS, MAX_LAYERS, MAX_PLACED, MAX_SPACES, Place, Space, ZERO,
};

/// Bytes of a chunk's content. Host pages are 4, 16 or 64 KiB, so that a chunk is whole pages
/// anywhere.
pub const CHUNK_SIZE: u64 = 64 << 10;

/// The most bytes that a stored chunk can take: what zstd makes of random bytes, and a little.
pub const MAX_STORED: u32 = (64 << 10) + 1024;

/// The largest index that is read.
pub const MAX_INDEX_SIZE: u64 = 256 << 20;

/// The largest state file that is read.
pub const MAX_STATE_SIZE: u64 = 64 << 20;

/// The `artifactType` of a pack's manifest.
pub const ARTIFACT_TYPE: &str = "application/vnd.supermachine.snapshot.v1";
/// The media type of the configuration, which is JSON for people and tools.
pub const CONFIG_TYPE: &str = "application/vnd.supermachine.snapshot.config.v1+json";
/// The media type of the state file.
pub const STATE_TYPE: &str = "application/vnd.supermachine.snapshot.state.v1";
/// The media type of the index.
pub const INDEX_TYPE: &str = "application/vnd.supermachine.snapshot.index.v1";
/// The media type of a blob of chunks.
pub const CHUNKS_TYPE: &str = "application/vnd.supermachine.snapshot.chunks.v1+zstd";
