//! The index: the chunks of a snapshot, where they are stored, and where they belong.

use alloc::vec::Vec;
use core::ops::Range;

use super::{CHUNK_SIZE, MAX_INDEX_SIZE, MAX_STORED};
use crate::codec::{DecodeError, Put, Reader};
use crate::record::{Field, record};
use crate::{Digest, Hasher};

/// The magic bytes at the start of an index.
pub const INDEX_MAGIC: [u8; 8] = *b"SUPERMIX";
/// The version of the index that this build writes and reads.
pub const INDEX_VERSION: u16 = 1;
/// Size of the header in bytes.
pub const INDEX_HEADER_SIZE: usize = 32;
/// The chunk number of a chunk of zeros.
pub const ZERO: u32 = u32::MAX;
/// The most layers of a space, one for each snapshot of a chain.
pub const MAX_LAYERS: usize = 64;
/// The most spaces: the memory and the disks.
pub const MAX_SPACES: usize = 65;

/// The most blobs; each is an open file while a machine starts.
pub const MAX_BLOBS: usize = 4096;
/// The most chunks that all layers of all spaces place, not counting zeros: 1 TiB. One stored
/// chunk may be placed many times, so the size of the index is no bound.
pub const MAX_PLACED: u64 = 16 << 20;
/// The largest space. A memory of 1 TiB and any disk window fit.
const MAX_SPACE_SIZE: u64 = 16 << 40;

record! {
    /// A stored chunk: one zstd frame.
    #[derive(Copy)]
    pub struct Chunk {
        /// The digest of its content.
        content: Digest,
        /// Size of the frame in bytes.
        stored: u32,
    }

    /// A blob of frames, one after the other.
    pub struct Blob {
        /// The digest of the blob.
        digest: Digest,
        /// Its chunks, in storage order.
        chunks: Vec<Chunk>,
    }

    /// Chunks that are consecutive both in their space and in the numbering of chunks.
    #[derive(Copy)]
    pub struct Extent {
        /// The place of the first chunk, counted in chunks.
        first: u32,
        /// The number of chunks.
        count: u32,
        /// The number of the first chunk; [`ZERO`] if all are zeros.
        chunk: u32,
    }

    /// What one snapshot of a chain adds to a space.
    #[derive(Default)]
    pub struct Layer {
        /// Its chunks, by rising place.
        extents: Vec<Extent>,
    }

    /// A place in a space.
    #[derive(Copy)]
    pub struct Place {
        /// The space: 0 is the memory, then come the disks.
        space: u8,
        /// The place, counted in chunks.
        place: u32,
    }
}

/// A memory or a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// Size in bytes, a multiple of [`CHUNK_SIZE`].
    pub size: u64,
    /// At most [`MAX_LAYERS`], from the oldest snapshot to the youngest. A younger layer hides
    /// an older one. Places that no layer names are zeros.
    pub layers: Vec<Layer>,
}

/// The places of all chunks of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// At most [`MAX_BLOBS`]. Chunk numbers count through all blobs.
    pub blobs: Vec<Blob>,
    /// The memory.
    pub memory: Space,
    /// The disks, as the state file lists them. With the memory, at most [`MAX_SPACES`].
    pub disks: Vec<Space>,
    /// The places used between a restore and the end of the first command, in order of use.
    pub first_use: Vec<Place>,
}

/// Why an index was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The file does not start with the magic of an index.
    #[error("not a chunk index")]
    NotAnIndex,
    /// The format has another version.
    #[error("chunk index has format version {found}, this build reads {supported}")]
    Version {
        /// The index's version.
        found: u16,
        /// The version that this build reads.
        supported: u16,
    },
    /// The index needs features that this build does not know.
    #[error("chunk index needs unknown features {unknown:#x}")]
    Features {
        /// The unknown feature bits.
        unknown: u64,
    },
    /// A field is malformed.
    #[error("chunk index is malformed")]
    Malformed {
        /// The malformed field.
        source: DecodeError,
    },
    /// Two parts contradict each other, or a limit is exceeded.
    #[error("chunk index has {what}")]
    Inconsistent {
        /// The fault.
        what: &'static str,
    },
}

// These two take far more memory than bytes in the file, so their lists need limits.
impl Field for Space {
    const MIN_SIZE: usize = u64::MIN_SIZE + Vec::<Layer>::MIN_SIZE;

    fn put(&self, out: &mut Vec<u8>) {
        self.size.put(out);
        self.layers.put(out);
    }

    fn read(_: &'static str, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let size = Field::read("size", reader)?;
        let layers = reader
            .list("layers", MAX_LAYERS, Layer::MIN_SIZE, |reader| Layer::read("layer", reader))?;
        Ok(Self { size, layers })
    }
}

impl Field for Index {
    const MIN_SIZE: usize = 3 * Vec::<Blob>::MIN_SIZE + Space::MIN_SIZE;

    fn put(&self, out: &mut Vec<u8>) {
        self.blobs.put(out);
        self.memory.put(out);
        self.disks.put(out);
        self.first_use.put(out);
    }

    fn read(_: &'static str, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let blob = |reader: &mut Reader<'_>| Blob::read("blob", reader);
        let disk = |reader: &mut Reader<'_>| Space::read("disk", reader);
        Ok(Self {
            blobs: reader.list("blobs", MAX_BLOBS, Blob::MIN_SIZE, blob)?,
            memory: Field::read("memory", reader)?,
            disks: reader.list("disks", MAX_SPACES - 1, Space::MIN_SIZE, disk)?,
            first_use: Field::read("first use", reader)?,
        })
    }
}

impl Blob {
    /// Size of the blob in bytes.
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

    /// Yields the place and number of each chunk; the number is `None` for zeros.
    pub fn chunks(&self) -> impl Iterator<Item = (u32, Option<u32>)> + use<> {
        let Self { first, count, chunk } = *self;
        (0..count).map(move |step| (first + step, (chunk != ZERO).then(|| chunk + step)))
    }

    /// Returns the part from `place` onwards.
    fn after(self, place: u64) -> Self {
        let gone = place.saturating_sub(self.first.into()).min(self.count.into());
        let gone = u32::try_from(gone).unwrap_or(self.count);
        let chunk = if self.chunk == ZERO { ZERO } else { self.chunk + gone };
        Self { first: self.first + gone, count: self.count - gone, chunk }
    }

    /// Returns the part before `place`.
    fn before(self, place: u32) -> Self {
        Self { count: place.saturating_sub(self.first).min(self.count), ..self }
    }

    /// Whether `next` continues this extent, in its places and in its chunks.
    fn continues_as(&self, next: &Self) -> bool {
        let chunks_follow = match (self.chunk, next.chunk) {
            (ZERO, ZERO) => true,
            (ZERO, _) | (_, ZERO) => false,
            (chunk, next) => chunk.checked_add(self.count) == Some(next),
        };
        self.end() == u64::from(next.first)
            && chunks_follow
            && self.count.checked_add(next.count).is_some()
    }
}

impl Layer {
    /// Gathers chunks, given by rising place, into extents.
    #[must_use]
    pub fn of(chunks: impl IntoIterator<Item = (u32, Option<u32>)>) -> Self {
        let mut layer = Self::default();
        for (first, number) in chunks {
            layer.append(Extent { first, count: 1, chunk: number.unwrap_or(ZERO) });
        }
        layer
    }

    /// Yields the place and number of each chunk, by rising place.
    pub fn chunks(&self) -> impl Iterator<Item = (u32, Option<u32>)> {
        self.extents.iter().flat_map(Extent::chunks)
    }

    /// Returns the number of the chunk at `place`, or `None` if the layer does not name the place
    /// or it holds zeros.
    #[must_use]
    pub fn number(&self, place: u32) -> Option<u32> {
        let after = self.extents.partition_point(|extent| extent.first <= place);
        let extent = self.extents.get(after.checked_sub(1)?)?;
        let step = place - extent.first;
        (step < extent.count && extent.chunk != ZERO).then(|| extent.chunk + step)
    }

    /// Returns the part of the layer in `ranges` of places, which are in rising order.
    #[must_use]
    pub fn within(&self, ranges: &[Range<u32>]) -> Self {
        let mut layer = Self::default();
        for range in ranges {
            let from = self.extents.partition_point(|extent| extent.end() <= range.start.into());
            let extents = self.extents.iter().skip(from);
            for extent in extents.take_while(|extent| extent.first < range.end) {
                layer.append(extent.after(range.start.into()).before(range.end));
            }
        }
        layer
    }

    /// Merges this layer over `behind`. Time and memory depend on the number of extents, which
    /// the file's size bounds, not on the number of chunks.
    fn over(&self, behind: &Self) -> Self {
        let mut all = Self::default();
        let mut front = self.extents.iter().peekable();
        for extent in &behind.extents {
            let mut rest = *extent;
            while let Some(next) = front.next_if(|next| next.first < rest.first) {
                all.append(*next);
                rest = rest.after(next.end());
            }
            // An earlier extent of the front may reach into this one.
            if let Some(last) = all.extents.last() {
                rest = rest.after(last.end());
            }
            while rest.count > 0 {
                let Some(next) = front.next_if(|next| u64::from(next.first) < rest.end()) else {
                    break;
                };
                all.append(rest.before(next.first));
                all.append(*next);
                rest = rest.after(next.end());
            }
            all.append(rest);
        }
        front.for_each(|next| all.append(*next));
        all
    }

    /// Appends an extent, or extends the last one.
    fn append(&mut self, extent: Extent) {
        if extent.count == 0 {
            return;
        }
        match self.extents.last_mut() {
            Some(last) if last.continues_as(&extent) => last.count += extent.count,
            _ => self.extents.push(extent),
        }
    }
}

impl Space {
    /// Returns a space of zeros.
    #[must_use]
    pub fn empty(size: u64) -> Self {
        Self { size, layers: Vec::new() }
    }

    /// Merges the layers `from..` into one.
    #[must_use]
    pub fn flattened(&self, from: usize) -> Layer {
        let layers = self.layers.iter().skip(from).rev();
        layers.fold(Layer::default(), |front, behind| front.over(behind))
    }

    fn validate(&self, chunks: u64) -> Result<(), IndexError> {
        let inconsistent = |what| Err(IndexError::Inconsistent { what });
        if self.size == 0 || !self.size.is_multiple_of(CHUNK_SIZE) || self.size > MAX_SPACE_SIZE {
            return inconsistent("a space whose size is not whole chunks up to 16 TiB");
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
    /// Encodes the index. Equal indexes give equal bytes.
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

    /// Decodes an index and checks all of it.
    ///
    /// # Errors
    /// [`IndexError`] names the fault.
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
        // Readers ignore these features.
        reader.u64("compatible features").map_err(malformed)?;
        let index = Self::read("index", &mut reader).map_err(malformed)?;
        reader.finish().map_err(malformed)?;
        index.validate()?;
        Ok(index)
    }

    /// The number of chunks in the blobs.
    #[must_use]
    pub fn chunk_count(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.chunks.len() as u64).sum()
    }

    /// Yields all chunks by number, each with the index of its blob and its offset there.
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

    /// Yields the memory, then the disks.
    pub fn spaces(&self) -> impl Iterator<Item = &Space> {
        core::iter::once(&self.memory).chain(&self.disks)
    }

    /// Returns a digest of the layers `..layers` of a space. Two spaces with equal digests have
    /// equal bytes, however their chunks are stored.
    #[must_use]
    pub fn identity(&self, space: &Space, layers: usize) -> Digest {
        let contents: Vec<&Digest> = self.chunks().map(|(_, _, chunk)| &chunk.content).collect();
        let mut hasher = Hasher::new();
        hasher.update(&space.size.to_le_bytes());
        for layer in space.layers.iter().take(layers) {
            for extent in &layer.extents {
                if extent.chunk == ZERO {
                    hasher.update(&extent.first.to_le_bytes());
                    hasher.update(&[0; 32]);
                    hasher.update(&extent.count.to_le_bytes());
                    continue;
                }
                for (place, number) in extent.chunks() {
                    hasher.update(&place.to_le_bytes());
                    let content = number.and_then(|number| contents.get(number as usize));
                    hasher.update(content.map_or(&[0; 32], |digest| &digest.0));
                }
            }
            hasher.update(&ZERO.to_le_bytes());
        }
        hasher.finish()
    }

    fn validate(&self) -> Result<(), IndexError> {
        let inconsistent = |what| Err(IndexError::Inconsistent { what });
        let stored = self.blobs.iter().flat_map(|blob| &blob.chunks);
        if stored.into_iter().any(|chunk| chunk.stored == 0 || chunk.stored > MAX_STORED) {
            return inconsistent("a stored chunk of an impossible size");
        }
        let chunks = self.chunk_count();
        if chunks >= u64::from(ZERO) {
            return inconsistent("too many chunks");
        }
        for space in self.spaces() {
            space.validate(chunks)?;
        }
        let extents =
            self.spaces().flat_map(|space| &space.layers).flat_map(|layer| &layer.extents);
        let stored = extents.filter(|extent| extent.chunk != ZERO);
        if stored.map(|extent| u64::from(extent.count)).sum::<u64>() > MAX_PLACED {
            return inconsistent("more than 1 TiB of placed chunks");
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

// Older builds misread a file if a field is added or moved.
const _: () = {
    assert!(Chunk::MIN_SIZE == 36);
    assert!(Extent::MIN_SIZE == 12);
    assert!(Blob::MIN_SIZE == 36);
    assert!(Space::MIN_SIZE == 12);
    assert!(Place::MIN_SIZE == 5);
    assert!(Index::MIN_SIZE == 4 + 12 + 4 + 4);
};
