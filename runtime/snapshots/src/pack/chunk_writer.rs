//! Writing chunks: compressed on all processors, stored in order.

use std::collections::HashMap;
use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use supermachine_formats::Digest;
use supermachine_formats::pack::{Blob, CHUNK_SIZE, Chunk};
use zstd::bulk::Compressor;

use super::blobs::BlobWriter;
use super::chunk::FRAME_HEADER;
use super::layout::Layout;
use crate::error::PackError;

const SIZE: usize = CHUNK_SIZE as usize;
/// The chunks in memory at a time.
const BATCH: usize = 256;

/// The default zstd level: high, as a pack is compressed once and shipped to many.
pub const DEFAULT_LEVEL: i32 = 9;

/// Writes one blob of chunks. It skips zero chunks, and stores equal chunks once.
#[derive(Debug)]
pub struct ChunkWriter {
    blob: BlobWriter,
    level: i32,
    chunks: Vec<Chunk>,
    numbers: HashMap<Digest, u32>,
}

/// A compressed chunk: its content's digest and its frame; `None` for zeros.
type Packed = Result<Option<(Digest, Vec<u8>)>, PackError>;

impl ChunkWriter {
    /// Starts a blob.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn new(layout: &Layout, level: i32) -> Result<Self, PackError> {
        let blob = layout.writer()?;
        Ok(Self { blob, level, chunks: Vec::new(), numbers: HashMap::new() })
    }

    /// Adds `count` chunks. `read` fills in their content and is called from many threads. Returns
    /// the number of each in this blob, or `None` for a zero chunk.
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

    /// Stores the blob. `None`: it is empty.
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

/// Compresses the chunks of a range, in order.
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
            // The counter only distributes chunks; no other data depends on it.
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
            // Without this thread, the others do the work.
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

/// An error of the compressor, cloneable for several chunks.
fn broken(error: &mut io::Error) -> PackError {
    PackError::Decompressor { source: io::Error::new(error.kind(), error.to_string()) }
}
