//! The spool: file contents between the layers and the image.
//!
//! Owns the scratch file, which has the layout of the image's contents: one region per layer, with
//! the layer's regular files in the layer's order. Small files stay in memory, and a file whose bytes
//! are in the scratch file already is not stored again. Does not know names or trees. Invariant: a
//! region's bytes depend on its layer and those below it alone.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Seek, SeekFrom, Write};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::content::{Content, Extent, Spooled};
use super::error::EntryError;

/// The most bytes of one image's contents in the scratch file.
const MAX_LENGTH: u64 = 64 << 30;
/// The largest size of one file, holes included.
const MAX_FILE_SIZE: u64 = 16 << 40;
/// The alignment of regions and of their sizes.
pub(super) const REGION_UNIT: u64 = 64 << 10;
/// The alignment of files: the image's block, and the page of every guest.
const FILE_ALIGNMENT: u64 = 4096;
/// The largest file that stays in memory. Four of that size fit a block of the image, behind their
/// inodes.
const MAX_SMALL: u64 = 960;
/// The most bytes of small files of one image; more of them are spooled like larger ones.
const MAX_SMALL_TOTAL: u64 = 256 << 20;
/// The unit of the search for zeros. Container tools do not archive sparse files as such, so a sparse
/// `lastlog` arrives as gigabytes of zeros.
const BLOCK: usize = 64 << 10;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

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
    /// The end of what was ever written to `out`. Bytes from `written` on are of dropped files.
    stale: u64,
    block: Vec<u8>,
    /// The bytes of small files so far.
    small: u64,
    /// The files stored so far, by their hash.
    known: HashMap<u128, Spooled>,
    /// The keys of the hash: random, so that no image can be made to contain two files with the same hash.
    keys: (u64, u64),
}

impl<W: Write + Seek> Spool<W> {
    /// Starts with nothing written to `out`, which is empty.
    pub fn new(out: W) -> Self {
        let random = || RandomState::new().build_hasher().finish();
        Self {
            out,
            length: 0,
            written: 0,
            stale: 0,
            block: vec![0; BLOCK],
            small: 0,
            known: HashMap::new(),
            keys: (random(), random()),
        }
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
        fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Content, StoreError<E>> {
        if size > MAX_FILE_SIZE {
            let refused = EntryError::FileTooLarge { size, limit: MAX_FILE_SIZE };
            return Err(StoreError::Refused(refused));
        }
        if size <= MAX_SMALL && self.small + size <= MAX_SMALL_TOTAL {
            self.small += size;
            return read_small(size, segments, fill).map(Content::Small);
        }
        self.length = self.length.next_multiple_of(FILE_ALIGNMENT);
        let start = self.length;
        let (spooled, hash) = self.spool(size, segments, fill)?;
        if let Some(known) = self.known.get(&hash) {
            let known = known.clone();
            self.rewind(start).map_err(StoreError::Write)?;
            return Ok(Content::Spooled(known));
        }
        self.known.insert(hash, spooled.clone());
        Ok(Content::Spooled(spooled))
    }

    /// Appends one file, and returns its location and a hash of its bytes and size.
    fn spool<E>(
        &mut self,
        size: u64,
        segments: &[Segment],
        mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(Spooled, u128), StoreError<E>> {
        let mut content = Spooled { size, extents: Vec::new() };
        let mut hasher = SipHasher13::new_with_keys(self.keys.0, self.keys.1);
        hasher.write_u64(size);
        let mut block = std::mem::take(&mut self.block);
        for segment in segments {
            let (mut position, mut left) = (segment.start, segment.length);
            while left > 0 {
                let to_boundary = BLOCK - block_offset(position);
                let count = usize::try_from(left).map_or(to_boundary, |left| left.min(to_boundary));
                let Some(part) = block.get_mut(..count) else { break };
                fill(part).map_err(StoreError::Source)?;
                if !is_zero(part) {
                    hasher.write_u64(position);
                    hasher.write(part);
                    self.append_zeros(&mut content, position)?;
                    self.append(&mut content, position, part)?;
                }
                position = position.saturating_add(count as u64);
                left -= count as u64;
            }
        }
        self.block = block;
        self.append_zeros(&mut content, size)?;
        Ok((content, hasher.finish128().as_u128()))
    }

    /// Drops everything from `start` on.
    fn rewind(&mut self, start: u64) -> io::Result<()> {
        self.length = start;
        if self.written > start {
            self.stale = self.stale.max(self.written);
            self.written = start;
            self.out.seek(SeekFrom::Start(start))?;
        }
        Ok(())
    }

    /// Stores the zeros before `to` in the file, or leaves a hole.
    fn append_zeros<E>(&mut self, content: &mut Spooled, to: u64) -> Result<(), StoreError<E>> {
        let mut from = content.end();
        if let Some(hole) = content.hole_before(to) {
            self.grow(content, from, hole.start - from)?;
            from = hole.end;
        }
        self.grow(content, from, to.saturating_sub(from))
    }

    fn append<E>(
        &mut self,
        content: &mut Spooled,
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
        content: &mut Spooled,
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
        // What a dropped file left must not show.
        while self.written < self.stale.min(position) {
            let left = usize::try_from(position - self.written).unwrap_or(usize::MAX);
            let zeros = ZEROS.get(..left).unwrap_or(&ZEROS);
            self.out.write_all(zeros)?;
            self.written += zeros.len() as u64;
        }
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

/// Reads a file of at most [`MAX_SMALL`] bytes.
fn read_small<E>(
    size: u64,
    segments: &[Segment],
    mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<Box<[u8]>, StoreError<E>> {
    // Both fit `usize`: they are small.
    let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let mut bytes = vec![0; index(size)];
    for segment in segments {
        let range = index(segment.start)..index(segment.start.saturating_add(segment.length));
        // The archive's reader checks that segments are within the file.
        let Some(part) = bytes.get_mut(range) else { continue };
        fill(part).map_err(StoreError::Source)?;
    }
    Ok(bytes.into())
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
    use super::super::content::{MAX_CHUNKS, MIN_CHUNK_BITS};
    use super::*;
    use std::io::{Cursor, Read};

    const MIB: u64 = 1 << 20;

    fn store(size: u64, segments: &[Segment], bytes: &[u8]) -> (Spooled, Vec<u8>) {
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
    ) -> Spooled {
        match spool.store(size, segments, |part| bytes.read_exact(part)).unwrap() {
            Content::Spooled(spooled) => spooled,
            Content::Small(bytes) => panic!("{} bytes are not spooled", bytes.len()),
        }
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
        for size in [961, 5000, 962] {
            let bytes = vec![1; size];
            put(&mut spool, size as u64, &whole(&bytes), &bytes);
        }
        assert_eq!(spool.length(), 12_288 + 962);
        spool.end_layer();
        assert_eq!(spool.length(), REGION_UNIT);
        spool.end_layer();
        let second = put(&mut spool, 1000, &whole(&[1; 1000]), &[1; 1000]);
        assert_eq!(second.extents, [Extent { start: 0, spooled: REGION_UNIT, length: 1000 }]);
        spool.end_layer();
        let spooled = spool.finish().unwrap().into_inner();
        assert_eq!(spooled.len() as u64, 2 * REGION_UNIT);
        let data: usize = spooled.iter().map(|byte| usize::from(*byte != 0)).sum();
        assert_eq!((data, spooled[0], spooled[4096], spooled[13_249]), (7923, 1, 1, 1));
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
    }

    #[test]
    fn small_file_stays_in_memory_until_there_are_too_many() {
        let mut spool = Spool::new(Cursor::new(Vec::new()));
        let segments = [Segment { start: 1, length: 2 }];
        let mut bytes = &b"ab"[..];
        let content = spool.store(4, &segments, |part| bytes.read_exact(part)).unwrap();
        assert_eq!(content, Content::Small((*b"\0ab\0").into()));
        let none = spool.store(0, &[], |_| Err(())).unwrap();
        assert_eq!(none, Content::Small([].into()));
        spool.small = MAX_SMALL_TOTAL - 959;
        assert_eq!(put(&mut spool, 960, &whole(&[1; 960]), &[1; 960]).size, 960);
        assert_eq!(spool.length(), 960);
    }

    #[test]
    fn file_is_stored_once_and_a_dropped_copy_leaves_no_bytes() {
        let bytes = vec![3; 2 * BLOCK];
        let mut spool = Spool::new(Cursor::new(Vec::new()));
        let first = put(&mut spool, bytes.len() as u64, &whole(&bytes), &bytes);
        let second = put(&mut spool, bytes.len() as u64, &whole(&bytes), &bytes);
        assert_eq!((first == second, spool.length()), (true, bytes.len() as u64));
        let mut sparse = vec![0; 2 * BLOCK];
        sparse[2 * BLOCK - 1] = 1;
        put(&mut spool, sparse.len() as u64, &whole(&sparse), &sparse);
        assert!(spool.finish().unwrap().into_inner() == [bytes, sparse].concat());
    }

    #[test]
    fn spool_of_sparse_segments_fills_small_gaps() {
        let segments = [
            Segment { start: 10, length: 2 },
            Segment { start: 12, length: 2 },
            Segment { start: 100, length: 1 },
        ];
        let (content, spooled) = store(2000, &segments, b"abcde");
        assert_eq!(content.extents, [Extent { start: 0, spooled: 0, length: 2000 }]);
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
        let Content::Spooled(content) = spool.store(size, &segments, fill).unwrap() else {
            panic!("a large file is spooled");
        };
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
