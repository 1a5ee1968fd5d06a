//! Writing chunks: compressed on all processors, stored in the order in which they are given.

use std::collections::HashMap;
use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use supermachine_formats::Digest;
use supermachine_formats::pack::{Blob, CHUNK_SIZE, Chunk};
use zstd::bulk::Compressor;

use super::layout::{BlobWriter, Layout};
use super::{FRAME_HEADER, PackError};

const SIZE: usize = CHUNK_SIZE as usize;
/// How many chunks are held at a time.
const BATCH: usize = 256;

/// How hard zstd tries when nobody says: what is shipped to many is worth some time once.
pub const DEFAULT_LEVEL: i32 = 9;

/// Writes one blob of chunks. Chunks of zeros are not stored, and equal ones once.
#[derive(Debug)]
pub struct ChunkWriter {
    blob: BlobWriter,
    level: i32,
    chunks: Vec<Chunk>,
    numbers: HashMap<Digest, u32>,
}

/// A chunk on its way: its content's digest and its frame; none for zeros.
type Packed = Result<Option<(Digest, Vec<u8>)>, PackError>;

impl ChunkWriter {
    /// Begins a blob.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(layout: &Layout, level: i32) -> Result<Self, PackError> {
        let blob = layout.writer()?;
        Ok(Self { blob, level, chunks: Vec::new(), numbers: HashMap::new() })
    }

    /// Adds `count` chunks, whose content `read` gives, called from many threads; gives for
    /// each its number in this blob, or none if it is zeros.
    ///
    /// # Errors
    /// A chunk cannot be read or written.
    pub fn add(
        &mut self,
        count: usize,
        read: impl Fn(usize, &mut [u8; SIZE]) -> Result<(), PackError> + Sync,
    ) -> Result<Vec<Option<u32>>, PackError> {
        let mut numbers = Vec::with_capacity(count);
        for from in (0..count).step_by(BATCH) {
            let to = (from + BATCH).min(count);
            for packed in pack_all(from..to, self.level, &read) {
                numbers
                    .push(packed?.map(|(digest, frame)| self.store(digest, &frame)).transpose()?);
            }
        }
        Ok(numbers)
    }

    fn store(&mut self, content: Digest, frame: &[u8]) -> Result<u32, PackError> {
        if let Some(number) = self.numbers.get(&content) {
            return Ok(*number);
        }
        let too_many = |_| PackError::Inconsistent { what: "too many chunks" };
        let number = u32::try_from(self.chunks.len()).map_err(too_many)?;
        let stored = u32::try_from(frame.len()).map_err(too_many)?;
        self.blob.write(frame)?;
        self.chunks.push(Chunk { content, stored });
        self.numbers.insert(content, number);
        Ok(number)
    }

    /// Stores the blob; none if there is nothing in it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(self) -> Result<Option<Blob>, PackError> {
        if self.chunks.is_empty() {
            return Ok(None);
        }
        let digest = self.blob.commit()?.digest;
        Ok(Some(Blob { digest, chunks: self.chunks }))
    }
}

/// Packs the chunks of a range, in its order.
fn pack_all(
    range: std::ops::Range<usize>,
    level: i32,
    read: &(impl Fn(usize, &mut [u8; SIZE]) -> Result<(), PackError> + Sync),
) -> Vec<Packed> {
    let results: Vec<Mutex<Packed>> = range.clone().map(|_| Mutex::new(Ok(None))).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut packer = Packer::new(level);
        loop {
            // The counter hands out chunks; nothing else is read because of it.
            let step = next.fetch_add(1, Ordering::Relaxed);
            let Some(slot) = results.get(step) else { return };
            let result =
                packer.as_mut().map_err(broken).and_then(|it| it.pack(range.start + step, read));
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = result;
        }
    };
    thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        for _ in 1..processors.min(range.len()) {
            // Without it the others do its work.
            let _ = thread::Builder::new().name("sm-pack".into()).spawn_scoped(scope, work);
        }
        work();
    });
    let unlock = |slot: Mutex<Packed>| slot.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().map(unlock).collect()
}

struct Packer {
    compressor: Compressor<'static>,
    content: Box<[u8; SIZE]>,
}

impl Packer {
    fn new(level: i32) -> Result<Self, io::Error> {
        Ok(Self { compressor: Compressor::new(level)?, content: Box::new([0; SIZE]) })
    }

    fn pack(
        &mut self,
        number: usize,
        read: &impl Fn(usize, &mut [u8; SIZE]) -> Result<(), PackError>,
    ) -> Packed {
        read(number, &mut self.content)?;
        if self.content.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let digest = Digest::of(self.content.as_slice());
        let compress = self.compressor.compress(self.content.as_slice());
        let frame = compress.map_err(|mut source| broken(&mut source))?;
        if !frame.starts_with(&FRAME_HEADER) {
            return Err(PackError::Inconsistent { what: "a frame of another form" });
        }
        Ok(Some((digest, frame)))
    }
}

/// An error of the compressor, which several chunks can share.
fn broken(error: &mut io::Error) -> PackError {
    PackError::Decompressor { source: io::Error::new(error.kind(), error.to_string()) }
}
