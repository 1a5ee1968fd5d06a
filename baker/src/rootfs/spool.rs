//! The spool: file contents between the layers and the image.
//!
//! Owns the scratch file, which has the layout of the image's contents: one region per layer, with
//! the layer's regular files in the layer's order. Does not know names or trees. Invariants: a region's
//! bytes depend on its layer alone; the extents of a [`Content`] ascend, do not overlap, are within the
//! file's size, are contiguous in the scratch file, and start there on whole blocks; everything outside
//! of extents is zeros.

use std::io::{self, Seek, SeekFrom, Write};

use super::error::EntryError;

/// The most bytes of one image's contents in the scratch file.
const MAX_LENGTH: u64 = 64 << 30;
/// The largest size of one file, holes included.
const MAX_FILE_SIZE: u64 = 16 << 40;
/// The alignment of regions and of their sizes.
pub(super) const REGION_UNIT: u64 = 64 << 10;
/// The alignment of files: the image's block, and the page of every guest.
const FILE_ALIGNMENT: u64 = 4096;
/// Runs of zeros shorter than this stay in the content: files without holes map best, and work with
/// kernels that do not support chunks.
const MIN_HOLE: u64 = 1 << 20;
/// The smallest chunk size, in bits. Holes start and end on chunk borders.
const MIN_CHUNK_BITS: u32 = 16;
const MAX_CHUNKS: u64 = 1 << 14;
/// The unit of the search for zeros. Container tools do not archive sparse files as such, so a sparse
/// `lastlog` arrives as gigabytes of zeros.
const BLOCK: usize = 64 << 10;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// The location of one file's bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// The file's size, holes included.
    pub(super) size: u64,
    /// The parts that are not holes.
    pub(super) extents: Vec<Extent>,
}

impl Content {
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
    fn end(&self) -> u64 {
        self.extents.last().map_or(0, Extent::end)
    }

    /// The hole between the last extent and `to`, if it is large enough.
    fn hole_before(&self, to: u64) -> Option<std::ops::Range<u64>> {
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
    fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }
}

/// A part of a file in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) length: u64,
}

/// Why contents could not be spooled.
#[derive(Debug)]
pub(super) enum StoreError<E> {
    /// Reading the contents failed.
    Source(E),
    /// Writing the scratch file failed.
    Write(io::Error),
    /// The file breaks a rule.
    Refused(EntryError),
}

/// Receives the contents of files in order.
#[derive(Debug)]
pub struct Spool<W> {
    out: W,
    /// The bytes spooled, including padding.
    length: u64,
    /// The bytes of them written to `out`; the rest is zeros.
    written: u64,
    block: Vec<u8>,
}

impl<W: Write + Seek> Spool<W> {
    /// Starts with nothing written to `out`, which is empty.
    pub fn new(out: W) -> Self {
        Self { out, length: 0, written: 0, block: vec![0; BLOCK] }
    }

    /// Finishes the last region and returns the sink.
    ///
    /// # Errors
    /// The sink cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        if self.written < self.length {
            self.reach(self.length - 1)?;
            self.out.write_all(&[0])?;
        }
        self.out.flush()?;
        Ok(self.out)
    }

    /// Between layers: the end of the last region, where the next one starts.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Starts the next layer's region. A layer without contents takes no space.
    pub(super) fn end_layer(&mut self) {
        self.length = self.length.next_multiple_of(REGION_UNIT);
    }

    /// Appends one file of `size` bytes. Calls `fill` for the bytes of `segments` in order; it must fill
    /// the whole buffer.
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

    /// Stores the zeros before `to` in the file, or leaves a hole.
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

    /// Reserves space for `count` more bytes, at `start` in the file.
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

    /// Advances to `position` in the sink. The skipped part is zeros.
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
    // The remainder is below BLOCK and fits `usize`.
    usize::try_from(position % BLOCK as u64).unwrap_or(0)
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Without an early exit, the compiler can vectorise the comparison.
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
    fn spool_of_zeros_takes_no_space() {
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
