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

/// The extent of a chunk.
#[derive(Debug)]
struct Place {
    blob: usize,
    offset: u64,
    chunk: Chunk,
}

/// Reads chunks, one at a time. Each thread needs its own reader.
pub struct ChunkReader {
    blobs: Arc<[BlobFile]>,
    places: Arc<[Place]>,
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
        Self::over(blobs.into(), places(index))
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
        Self::over(blobs, places(index))
    }

    /// Another reader of the same chunks.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn another(&self) -> Result<Self, PackError> {
        Self::over(Arc::clone(&self.blobs), Arc::clone(&self.places))
    }

    fn over(blobs: Arc<[BlobFile]>, places: Arc<[Place]>) -> Result<Self, PackError> {
        let decompressor =
            Decompressor::new().map_err(|source| PackError::Decompressor { source })?;
        let stored = vec![0; MAX_STORED as usize];
        Ok(Self { blobs, places, decompressor, stored, content: vec![0; SIZE] })
    }

    /// A chunk's content, checked.
    ///
    /// # Errors
    /// [`PackError::Chunk`] if it does not match its digest.
    pub fn read(&mut self, number: u32) -> Result<&[u8], PackError> {
        let place = self.places.get(number as usize);
        let found = place.and_then(|place| Some((place, self.blobs.get(place.blob)?)));
        let Some((place, blob)) = found else {
            return Err(PackError::Inconsistent { what: "a chunk that no blob has" });
        };
        let damaged = |what| PackError::Chunk { blob: blob.digest, offset: place.offset, what };
        let stored = self.stored.get_mut(..place.chunk.stored as usize);
        let stored = stored.ok_or_else(|| damaged("a chunk of an impossible size"))?;
        blob.read_exact_at(stored, place.offset).map_err(|_| damaged("an unreadable chunk"))?;
        // Every bit of the header is fixed, so a flipped one is found.
        if !stored.starts_with(&FRAME_HEADER) {
            return Err(damaged("a frame with another header"));
        }
        let count = self.decompressor.decompress_to_buffer(stored, self.content.as_mut_slice());
        if !matches!(count, Ok(SIZE)) {
            return Err(damaged("a frame that cannot be decompressed"));
        }
        if Digest::of(&self.content) != place.chunk.content {
            return Err(damaged("a chunk with another digest"));
        }
        Ok(&self.content)
    }
}

fn places(index: &Index) -> Arc<[Place]> {
    index.chunks().map(|(blob, offset, chunk)| Place { blob, offset, chunk: *chunk }).collect()
}
