//! Chunks: stored as zstd frames, checked against the digest of their content.

use std::fmt;
use std::sync::Arc;

use supermachine_formats::Digest;
use supermachine_formats::pack::{Blob, CHUNK_SIZE, Chunk, Index, MAX_STORED};
use zstd::bulk::Decompressor;

use super::manifest::Descriptor;
use super::opened::Pack;
use super::source::{BlobFile, Source};
use crate::error::PackError;

/// The header of every chunk's frame: zstd's magic number, one segment, 64 KiB of content, no
/// checksum, no dictionary.
pub const FRAME_HEADER: [u8; 7] = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0xff];

const SIZE: usize = CHUNK_SIZE as usize;

/// Where a chunk is stored.
#[derive(Debug)]
struct ChunkLocation {
    blob: usize,
    offset: u64,
    chunk: Chunk,
}

/// Reads chunks, one at a time. Each thread needs its own reader.
pub struct ChunkReader {
    blobs: Arc<[BlobFile]>,
    locations: Arc<[ChunkLocation]>,
    decompressor: Decompressor<'static>,
    stored: Vec<u8>,
    content: Vec<u8>,
}

impl fmt::Debug for ChunkReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkReader").field("blobs", &self.blobs).finish_non_exhaustive()
    }
}

impl ChunkReader {
    /// A reader of a pack's chunks.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn new(pack: &Pack) -> Result<Self, PackError> {
        Self::of_blobs(&pack.index, &pack.blobs)
    }

    /// A reader of the chunks of an index in its blobs.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn of_blobs(index: &Index, blobs: &[BlobFile]) -> Result<Self, PackError> {
        Self::over(blobs.into(), locations(index))
    }

    /// A reader of the chunks of an index without a pack.
    ///
    /// # Errors
    /// A blob is missing.
    pub fn of_index(source: &Source, index: &Index) -> Result<Self, PackError> {
        let find = |blob: &Blob| {
            source.blob("chunks", &Descriptor { digest: blob.digest, size: blob.size() })
        };
        let blobs = index.blobs.iter().map(find).collect::<Result<_, _>>()?;
        Self::over(blobs, locations(index))
    }

    /// Another reader of the same chunks.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn another(&self) -> Result<Self, PackError> {
        Self::over(Arc::clone(&self.blobs), Arc::clone(&self.locations))
    }

    fn over(blobs: Arc<[BlobFile]>, locations: Arc<[ChunkLocation]>) -> Result<Self, PackError> {
        let decompressor =
            Decompressor::new().map_err(|source| PackError::Decompressor { source })?;
        let stored = vec![0; MAX_STORED as usize];
        Ok(Self { blobs, locations, decompressor, stored, content: vec![0; SIZE] })
    }

    /// A chunk's content, checked.
    ///
    /// # Errors
    /// [`PackError::Chunk`] if it does not match its digest.
    pub fn read(&mut self, number: u32) -> Result<&[u8], PackError> {
        let location = self.locations.get(number as usize);
        let found = location.and_then(|location| Some((location, self.blobs.get(location.blob)?)));
        let Some((location, blob)) = found else {
            return Err(PackError::Inconsistent { what: "a chunk that no blob has" });
        };
        let damaged = |what| PackError::Chunk { blob: blob.digest, offset: location.offset, what };
        let stored = self.stored.get_mut(..location.chunk.stored as usize);
        let stored = stored.ok_or_else(|| damaged("a chunk of an impossible size"))?;
        blob.read_exact_at(stored, location.offset).map_err(|_| damaged("an unreadable chunk"))?;
        // Every bit of the header is fixed, so a flipped one is found.
        if !stored.starts_with(&FRAME_HEADER) {
            return Err(damaged("a frame with another header"));
        }
        let count = self.decompressor.decompress_to_buffer(stored, self.content.as_mut_slice());
        if !matches!(count, Ok(SIZE)) {
            return Err(damaged("a frame that cannot be decompressed"));
        }
        if Digest::of(&self.content) != location.chunk.content {
            return Err(damaged("a chunk with another digest"));
        }
        Ok(&self.content)
    }
}

fn locations(index: &Index) -> Arc<[ChunkLocation]> {
    index
        .chunks()
        .map(|(blob, offset, chunk)| ChunkLocation { blob, offset, chunk: *chunk })
        .collect()
}
