//! The index: which chunks there are, where they are stored, and where they belong.

use alloc::vec::Vec;

use super::CHUNK_SIZE;
use super::{MAX_INDEX_SIZE, MAX_STORED};
use crate::codec::{DecodeError, Put, Reader};
use crate::record::{Field, record};
use crate::{Digest, Hasher};

/// The first bytes of an index.
pub const INDEX_MAGIC: [u8; 8] = *b"SUPERMIX";
/// The version of the index that this build writes and reads.
pub const INDEX_VERSION: u16 = 1;
/// Bytes of the header.
pub const INDEX_HEADER_SIZE: usize = 32;
/// The chunk number that means a chunk of zeros.
pub const ZERO: u32 = u32::MAX;
/// The most layers of a space, as a chain of snapshots has no more.
pub const MAX_LAYERS: usize = 64;
/// The most spaces: the memory and the disks.
pub const MAX_SPACES: usize = 65;

const MAX_BLOBS: usize = 4096;
/// The largest space, which a memory of 1 TiB and any disk window fit in.
const MAX_SPACE_SIZE: u64 = 16 << 40;

record! {
    /// A stored chunk: one zstd frame.
    #[derive(Copy)]
    pub struct Chunk {
        /// The digest of its content.
        content: Digest,
        /// Bytes that the frame takes.
        stored: u32,
    }

    /// A blob of frames, one after the other.
    pub struct Blob {
        /// The digest of the blob.
        digest: Digest,
        /// Its chunks, in the order in which they are stored.
        chunks: Vec<Chunk>,
    }

    /// Chunks that follow each other in their space, and in the numbering of chunks.
    #[derive(Copy)]
    pub struct Extent {
        /// The place of the first, counted in chunks.
        first: u32,
        /// How many.
        count: u32,
        /// The number of the first chunk; [`ZERO`]: all are zeros.
        chunk: u32,
    }

    /// What one snapshot of a chain adds to a space.
    #[derive(Default)]
    pub struct Layer {
        /// Its chunks, in rising order of their places.
        extents: Vec<Extent>,
    }

    /// A memory or a disk.
    pub struct Space {
        /// Its size in bytes, a multiple of the chunk's.
        size: u64,
        /// From the oldest snapshot to the youngest; a younger one's chunks are in front of an
        /// older one's. What no layer names is zeros.
        layers: Vec<Layer>,
    }

    /// A place in a space.
    #[derive(Copy)]
    pub struct Place {
        /// The space: 0 the memory, then the disks.
        space: u8,
        /// The place, counted in chunks.
        place: u32,
    }

    /// Where all of a snapshot's chunks are.
    pub struct Index {
        /// Chunks are numbered through all blobs.
        blobs: Vec<Blob>,
        /// The memory.
        memory: Space,
        /// The disks, as the state file lists them.
        disks: Vec<Space>,
        /// Places that are used between a restore and the end of the first command, in the
        /// order of their use.
        first_use: Vec<Place>,
    }
}

/// Why an index was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// It does not begin like an index.
    #[error("not a chunk index")]
    NotAnIndex,
    /// Another version of the format.
    #[error("chunk index has format version {found}, this build reads {supported}")]
    Version {
        /// The index's version.
        found: u16,
        /// The version that this build reads.
        supported: u16,
    },
    /// It needs something that this build does not know.
    #[error("chunk index needs unknown features {unknown:#x}")]
    Features {
        /// The feature bits that are not known.
        unknown: u64,
    },
    /// It is not of its form.
    #[error("chunk index is malformed")]
    Malformed {
        /// What is wrong with it.
        source: DecodeError,
    },
    /// What it says cannot be.
    #[error("chunk index has {what}")]
    Inconsistent {
        /// What it has.
        what: &'static str,
    },
}

impl Blob {
    /// Bytes of the blob.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.stored)).sum()
    }
}

impl Extent {
    /// The place after the last chunk.
    #[must_use]
    pub fn end(&self) -> u64 {
        u64::from(self.first) + u64::from(self.count)
    }

    /// Each chunk's place and number; no number: zeros.
    pub fn chunks(&self) -> impl Iterator<Item = (u32, Option<u32>)> + use<> {
        let Self { first, count, chunk } = *self;
        (0..count).map(move |step| (first + step, (chunk != ZERO).then(|| chunk + step)))
    }
}

impl Layer {
    /// Gathers chunks, given in rising order of their places, into extents.
    #[must_use]
    pub fn of(chunks: impl IntoIterator<Item = (u32, Option<u32>)>) -> Self {
        let mut extents: Vec<Extent> = Vec::new();
        for (place, number) in chunks {
            let chunk = number.unwrap_or(ZERO);
            match extents.last_mut() {
                Some(last)
                    if last.end() == u64::from(place)
                        && ((chunk == ZERO && last.chunk == ZERO)
                            || (last.chunk != ZERO
                                && last.chunk.checked_add(last.count) == Some(chunk))) =>
                {
                    last.count += 1;
                }
                _ => extents.push(Extent { first: place, count: 1, chunk }),
            }
        }
        Self { extents }
    }

    /// Each chunk's place and number, in rising order of places.
    pub fn chunks(&self) -> impl Iterator<Item = (u32, Option<u32>)> {
        self.extents.iter().flat_map(Extent::chunks)
    }
}

impl Space {
    /// A space with nothing in it.
    #[must_use]
    pub fn empty(size: u64) -> Self {
        Self { size, layers: Vec::new() }
    }

    /// What layers `from..` put together hold: each place's chunk, in rising order.
    #[must_use]
    pub fn flattened(&self, from: usize) -> Vec<(u32, Option<u32>)> {
        let mut places = alloc::collections::BTreeMap::new();
        for layer in self.layers.iter().skip(from) {
            places.extend(layer.chunks());
        }
        places.into_iter().collect()
    }

    fn validate(&self, chunks: u64) -> Result<(), IndexError> {
        let inconsistent = |what| Err(IndexError::Inconsistent { what });
        if self.size == 0 || !self.size.is_multiple_of(CHUNK_SIZE) || self.size > MAX_SPACE_SIZE {
            return inconsistent("a space whose size is not whole chunks up to 16 TiB");
        }
        if self.layers.len() > MAX_LAYERS {
            return inconsistent("more than 64 layers in a space");
        }
        for layer in &self.layers {
            let mut next = 0;
            for extent in &layer.extents {
                if extent.count == 0 || u64::from(extent.first) < next {
                    return inconsistent("an empty extent, or one out of order");
                }
                next = extent.end();
                if next > self.size / CHUNK_SIZE {
                    return inconsistent("an extent beyond its space");
                }
                let last = u64::from(extent.chunk) + u64::from(extent.count);
                if extent.chunk != ZERO && last > chunks {
                    return inconsistent("an extent of chunks that no blob has");
                }
            }
        }
        Ok(())
    }
}

impl Index {
    /// The index's bytes. The same index gives the same bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        Put::put(&mut out, &INDEX_MAGIC);
        out.put_u16(INDEX_VERSION);
        Put::put(&mut out, &[0; 6]);
        out.put_u64(0);
        out.put_u64(0);
        Field::put(self, &mut out);
        out
    }

    /// Reads an index and checks all that it says.
    ///
    /// # Errors
    /// [`IndexError`] tells what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let malformed = |source| IndexError::Malformed { source };
        let mut reader = Reader::new(bytes);
        if bytes.len() as u64 > MAX_INDEX_SIZE || reader.array("magic") != Ok(INDEX_MAGIC) {
            return Err(IndexError::NotAnIndex);
        }
        let found = reader.u16("version").map_err(malformed)?;
        if found != INDEX_VERSION {
            return Err(IndexError::Version { found, supported: INDEX_VERSION });
        }
        if reader.array("reserved").map_err(malformed)? != [0; 6] {
            return Err(malformed(reader.illegal("reserved", 1)));
        }
        let unknown = reader.u64("incompatible features").map_err(malformed)?;
        if unknown != 0 {
            return Err(IndexError::Features { unknown });
        }
        // Features that an older reader may pass over.
        reader.u64("compatible features").map_err(malformed)?;
        let index = Self::read("index", &mut reader).map_err(malformed)?;
        reader.finish().map_err(malformed)?;
        index.validate()?;
        Ok(index)
    }

    /// How many chunks the blobs hold.
    #[must_use]
    pub fn chunk_count(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.chunks.len() as u64).sum()
    }

    /// All chunks in the order of their numbers, each with its blob's place in the list and
    /// its offset in that blob.
    pub fn chunks(&self) -> impl Iterator<Item = (usize, u64, &Chunk)> {
        self.blobs.iter().enumerate().flat_map(|(blob, entry)| {
            let mut next = 0;
            entry.chunks.iter().map(move |chunk| {
                let offset = next;
                next += u64::from(chunk.stored);
                (blob, offset, chunk)
            })
        })
    }

    /// The memory first, then the disks.
    pub fn spaces(&self) -> impl Iterator<Item = &Space> {
        core::iter::once(&self.memory).chain(&self.disks)
    }

    /// A digest of what the layers `..layers` of a space hold: two spaces with the same digest
    /// have the same bytes, however their chunks are stored.
    #[must_use]
    pub fn identity(&self, space: &Space, layers: usize) -> Digest {
        let contents: Vec<&Digest> = self.chunks().map(|(_, _, chunk)| &chunk.content).collect();
        let mut hasher = Hasher::new();
        hasher.update(&space.size.to_le_bytes());
        for layer in space.layers.iter().take(layers) {
            for (place, number) in layer.chunks() {
                hasher.update(&place.to_le_bytes());
                let content = number.and_then(|number| contents.get(number as usize));
                hasher.update(content.map_or(&[0; 32], |digest| &digest.0));
            }
            hasher.update(&ZERO.to_le_bytes());
        }
        hasher.finish()
    }

    fn validate(&self) -> Result<(), IndexError> {
        let inconsistent = |what| Err(IndexError::Inconsistent { what });
        if self.blobs.len() > MAX_BLOBS {
            return inconsistent("more than 4096 blobs");
        }
        if 1 + self.disks.len() > MAX_SPACES {
            return inconsistent("more than 64 disks");
        }
        let stored = self.blobs.iter().flat_map(|blob| &blob.chunks);
        if stored.into_iter().any(|chunk| chunk.stored == 0 || chunk.stored > MAX_STORED) {
            return inconsistent("a chunk that takes no room, or more than any chunk can");
        }
        let chunks = self.chunk_count();
        if chunks >= u64::from(ZERO) {
            return inconsistent("too many chunks");
        }
        for space in self.spaces() {
            space.validate(chunks)?;
        }
        for used in &self.first_use {
            let space = self.spaces().nth(used.space.into());
            if space.is_none_or(|space| u64::from(used.place) >= space.size / CHUNK_SIZE) {
                return inconsistent("a first use of a place that no space has");
            }
        }
        Ok(())
    }
}

// A field that is added or moved changes what older builds read.
const _: () = {
    assert!(Chunk::MIN_SIZE == 36);
    assert!(Extent::MIN_SIZE == 12);
    assert!(Blob::MIN_SIZE == 36);
    assert!(Space::MIN_SIZE == 12);
    assert!(Place::MIN_SIZE == 5);
    assert!(Index::MIN_SIZE == 4 + 12 + 4 + 4);
};
