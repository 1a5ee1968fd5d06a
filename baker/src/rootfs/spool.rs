//! File contents on their way from the layers to the image.
//!
//! Owns the scratch file, in which contents lie as they are to lie in the image: one region a
//! layer, in it the layer's regular files in the layer's own order. Does not know names or
//! trees. Invariants: a region's bytes depend on its layer alone; the extents of a [`Content`]
//! ascend, do not overlap, lie inside the file's size, follow each other in the scratch file,
//! and start there on whole blocks; what no extent covers is zeros.

use std::io::{self, Seek, SeekFrom, Write};

use super::error::EntryError;

/// What all files of one image may take in the scratch file.
const MAX_LENGTH: u64 = 64 << 30;
/// The largest size of one file, holes included.
const MAX_FILE_SIZE: u64 = 16 << 40;
/// The multiple in which regions are placed and sized.
pub(super) const REGION_UNIT: u64 = 64 << 10;
/// The multiple on which each file starts: the image's block, and the page of every guest.
const FILE_ALIGNMENT: u64 = 4096;
/// Zeros shorter than this are kept in the file's contents: files without holes map best, and
/// serve kernels that know no chunks.
const MIN_HOLE: u64 = 1 << 20;
/// Chunks, on whose borders holes start and end, are as small as this while there are few.
const MIN_CHUNK_BITS: u32 = 16;
const MAX_CHUNKS: u64 = 1 << 14;
/// The unit in which runs of zeros are looked for. Archivers of container tools know no
/// sparse files, so that a sparse `lastlog` arrives as gigabytes of zeros.
const BLOCK: usize = 64 << 10;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Where the bytes of one file are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// The file's size, holes included.
    pub(super) size: u64,
    /// The parts that are not holes.
    pub(super) extents: Vec<Extent>,
}

impl Content {
    /// Whether parts of the file were left out. If not, it has one extent, or is empty.
    pub(super) fn has_holes(&self) -> bool {
        self.extents.iter().map(|extent| extent.length).sum::<u64>() < self.size
    }

    /// Holes start and end on multiples of `1 << chunk_bits`, or at the file's end. No file
    /// has more than a few thousand chunks of that size.
    pub(super) fn chunk_bits(&self) -> u32 {
        let mut bits = MIN_CHUNK_BITS;
        while self.size.div_ceil(1 << bits) > MAX_CHUNKS {
            bits += 1;
        }
        bits
    }

    /// The chunks that say where a file with holes is; none for a file without.
    pub(super) fn chunk_count(&self) -> usize {
        let count = if self.has_holes() { self.size.div_ceil(1 << self.chunk_bits()) } else { 0 };
        // At most MAX_CHUNKS.
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// Where in the file the last extent ends.
    fn end(&self) -> u64 {
        self.extents.last().map_or(0, Extent::end)
    }

    /// The part before `to`, after all extents, that can be left out, if it is worth it.
    fn hole_before(&self, to: u64) -> Option<std::ops::Range<u64>> {
        let chunk = 1 << self.chunk_bits();
        let start = self.end().next_multiple_of(chunk);
        let end = if to == self.size { to } else { to - to % chunk };
        (end.saturating_sub(start) >= MIN_HOLE).then_some(start..end)
    }
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
    fn end(&self) -> u64 {
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
    /// What is put aside, padding included.
    length: u64,
    /// What of that went into `out`; the rest is zeros.
    written: u64,
    block: Vec<u8>,
}

impl<W: Write + Seek> Spool<W> {
    /// Starts with nothing written to `out`, which is empty.
    pub fn new(out: W) -> Self {
        Self { out, length: 0, written: 0, block: vec![0; BLOCK] }
    }

    /// Ends writing and gives the sink back, whole regions long.
    ///
    /// # Errors
    /// The sink's own, when it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        if self.written < self.length {
            self.reach(self.length - 1)?;
            self.out.write_all(&[0])?;
        }
        self.out.flush()?;
        Ok(self.out)
    }

    /// Where the next region starts, and the last one ends, between layers.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Says that what comes now belongs to the next layer. A layer without contents takes
    /// nothing.
    pub(super) fn end_layer(&mut self) {
        self.length = self.length.next_multiple_of(REGION_UNIT);
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
        self.length = self.length.next_multiple_of(FILE_ALIGNMENT);
        let mut content = Content { size, extents: Vec::new() };
        let mut block = std::mem::take(&mut self.block);
        for segment in segments {
            let (mut position, mut left) = (segment.start, segment.length);
            while left > 0 {
                let to_boundary = BLOCK - block_offset(position);
                let count = usize::try_from(left).map_or(to_boundary, |left| left.min(to_boundary));
                let Some(part) = block.get_mut(..count) else { break };
                fill(part).map_err(StoreError::Source)?;
                if !is_zero(part) {
                    self.append_zeros(&mut content, position)?;
                    self.append(&mut content, position, part)?;
                }
                position = position.saturating_add(count as u64);
                left -= count as u64;
            }
        }
        self.block = block;
        self.append_zeros(&mut content, size)?;
        Ok(content)
    }

    /// Makes the zeros before `to` in the file part of its contents, or leaves them out.
    fn append_zeros<E>(&mut self, content: &mut Content, to: u64) -> Result<(), StoreError<E>> {
        let mut from = content.end();
        if let Some(hole) = content.hole_before(to) {
            self.grow(content, from, hole.start - from)?;
            from = hole.end;
        }
        self.grow(content, from, to.saturating_sub(from))
    }

    fn append<E>(
        &mut self,
        content: &mut Content,
        start: u64,
        part: &[u8],
    ) -> Result<(), StoreError<E>> {
        let at = self.length;
        self.grow(content, start, part.len() as u64)?;
        self.reach(at).and_then(|()| self.out.write_all(part)).map_err(StoreError::Write)?;
        self.written = self.length;
        Ok(())
    }

    /// Makes room for `count` more bytes, which are at `start` in the file.
    fn grow<E>(
        &mut self,
        content: &mut Content,
        start: u64,
        count: u64,
    ) -> Result<(), StoreError<E>> {
        if count == 0 {
            return Ok(());
        }
        if self.length.saturating_add(count) > MAX_LENGTH {
            let refused = EntryError::TooMuchContent { limit: MAX_LENGTH };
            return Err(StoreError::Refused(refused));
        }
        match content.extents.last_mut() {
            Some(last) if last.end() == start => last.length += count,
            _ => content.extents.push(Extent { start, spooled: self.length, length: count }),
        }
        self.length += count;
        Ok(())
    }

    /// Goes on to `position` in the sink; what is passed over is zeros.
    fn reach(&mut self, position: u64) -> io::Result<()> {
        let gap = position.saturating_sub(self.written);
        match usize::try_from(gap).ok().and_then(|gap| ZEROS.get(..gap)) {
            Some(zeros) => self.out.write_all(zeros)?,
            None => {
                self.out.seek(SeekFrom::Start(position))?;
            }
        }
        self.written = position;
        Ok(())
    }
}

fn block_offset(position: u64) -> usize {
    // The remainder is below BLOCK, which every usize holds.
    usize::try_from(position % BLOCK as u64).unwrap_or(0)
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Whole chunks without an early exit let the compiler compare many bytes at once.
    bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Read};

    const MIB: u64 = 1 << 20;

    fn store(size: u64, segments: &[Segment], bytes: &[u8]) -> (Content, Vec<u8>) {
        let mut spool = Spool::new(Cursor::new(Vec::new()));
        let content = put(&mut spool, size, segments, bytes);
        let length = spool.length();
        let spooled = spool.finish().unwrap().into_inner();
        assert_eq!(spooled.len() as u64, length);
        (content, spooled)
    }

    fn put(
        spool: &mut Spool<Cursor<Vec<u8>>>,
        size: u64,
        segments: &[Segment],
        mut bytes: &[u8],
    ) -> Content {
        spool.store(size, segments, |part| bytes.read_exact(part)).unwrap()
    }

    fn whole(bytes: &[u8]) -> [Segment; 1] {
        [Segment { start: 0, length: bytes.len() as u64 }]
    }

    #[test]
    fn spool_of_dense_file_keeps_one_extent() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
        let (content, spooled) = store(200_000, &whole(&bytes), &bytes);
        assert_eq!(content.extents, [Extent { start: 0, spooled: 0, length: 200_000 }]);
        assert!(!content.has_holes());
        assert_eq!(spooled, bytes);
    }

    #[test]
    fn spool_of_two_layers_aligns_files_and_regions() {
        let mut spool = Spool::new(Cursor::new(Vec::new()));
        for size in [1, 0, 5000, 3] {
            let bytes = vec![1; size];
            put(&mut spool, size as u64, &whole(&bytes), &bytes);
        }
        assert_eq!(spool.length(), 12_291);
        spool.end_layer();
        assert_eq!(spool.length(), REGION_UNIT);
        spool.end_layer();
        let second = put(&mut spool, 1, &whole(b"x"), b"x");
        assert_eq!(second.extents, [Extent { start: 0, spooled: REGION_UNIT, length: 1 }]);
        spool.end_layer();
        let spooled = spool.finish().unwrap().into_inner();
        assert_eq!(spooled.len() as u64, 2 * REGION_UNIT);
        let data: usize = spooled.iter().map(|byte| usize::from(*byte != 0)).sum();
        assert_eq!((data, spooled[0], spooled[4096], spooled[12_290]), (5005, 1, 1, 1));
    }

    #[test]
    fn spool_of_short_zeros_keeps_them() {
        let mut bytes = vec![0; (MIB + 70_000) as usize];
        bytes[..65_537].fill(1);
        let (content, spooled) = store(bytes.len() as u64, &whole(&bytes), &bytes);
        assert!(!content.has_holes());
        assert_eq!(spooled, bytes);
    }

    #[test]
    fn spool_of_long_zeros_leaves_holes() {
        let mut bytes = vec![0; (5 * MIB + 10) as usize];
        bytes[2 * MIB as usize - 1] = 1;
        bytes[4 * MIB as usize + 70_000] = 2;
        let (content, spooled) = store(bytes.len() as u64, &whole(&bytes), &bytes);
        let chunk = 1 << MIN_CHUNK_BITS;
        let first = Extent { start: 2 * MIB - chunk, spooled: 0, length: chunk };
        let second = Extent {
            start: 4 * MIB + chunk,
            spooled: chunk,
            // The zeros at the end are a little short of a hole.
            length: MIB - chunk + 10,
        };
        assert_eq!(content.extents, [first, second]);
        assert!(content.has_holes());
        assert_eq!((spooled[0xffff], spooled[0x1_0000 + 4464]), (1, 2));
    }

    #[test]
    fn spool_of_nothing_but_zeros_takes_nothing() {
        let (content, spooled) = store(3 * MIB + 1, &[], b"");
        assert_eq!((content.extents.len(), content.has_holes(), spooled.len()), (0, true, 0));
        let (content, spooled) = store(5000, &[], b"");
        assert_eq!((content.has_holes(), spooled), (false, vec![0; 5000]));
        let (content, spooled) = store(0, &[], b"");
        assert_eq!((content.has_holes(), spooled.len()), (false, 0));
    }

    #[test]
    fn spool_of_sparse_segments_fills_small_gaps() {
        let segments = [
            Segment { start: 10, length: 2 },
            Segment { start: 12, length: 2 },
            Segment { start: 100, length: 1 },
        ];
        let (content, spooled) = store(200, &segments, b"abcde");
        assert_eq!(content.extents, [Extent { start: 0, spooled: 0, length: 200 }]);
        assert_eq!((&spooled[9..15], &spooled[99..102]), (&b"\0abcd\0"[..], &b"\0e\0"[..]));
    }

    #[test]
    fn spool_of_a_vast_sparse_file_has_few_chunks() {
        let size = MAX_FILE_SIZE;
        let mut spool = Spool::new(io::empty());
        let segments = [Segment { start: size - 1, length: 1 }];
        let fill = |part: &mut [u8]| {
            part.fill(1);
            Ok::<(), io::Error>(())
        };
        let content = spool.store(size, &segments, fill).unwrap();
        assert_eq!(size >> content.chunk_bits(), MAX_CHUNKS);
        let chunk = 1 << content.chunk_bits();
        assert_eq!(content.extents, [Extent { start: size - chunk, spooled: 0, length: chunk }]);
    }

    #[test]
    fn spool_of_monstrous_file_is_refused() {
        let mut spool = Spool::new(io::empty());
        let result = spool.store(u64::MAX, &[], |_| Ok::<(), io::Error>(()));
        assert!(matches!(result, Err(StoreError::Refused(EntryError::FileTooLarge { .. }))));
    }

    #[test]
    fn spool_of_too_many_bytes_is_refused() {
        let mut spool = Spool::new(io::empty());
        // Bytes a little less than a hole apart.
        let segments: Vec<Segment> =
            (0..1 << 17).map(|n| Segment { start: n * MIB, length: 1 }).collect();
        let fill = |part: &mut [u8]| {
            part.fill(1);
            Ok::<(), io::Error>(())
        };
        let result = spool.store(MIB << 17, &segments, fill);
        assert!(matches!(result, Err(StoreError::Refused(EntryError::TooMuchContent { .. }))));
    }
}
