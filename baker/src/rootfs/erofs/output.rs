//! Writes and hashes the image file front to back.
//!
//! Invariant: the digest covers every byte up to the position, including holes.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use supermachine_formats::{Digest, Hasher};

use super::format::BLOCK_U64;

const BUFFER: usize = 1 << 20;
/// The shortest run of zeros that becomes a hole.
const HOLE: u64 = 64 << 10;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The image file.
pub(super) struct Output {
    file: File,
    buffer: Vec<u8>,
    position: u64,
    hasher: Hasher,
}

impl Output {
    pub(super) fn new(file: File) -> Self {
        Self { file, buffer: Vec::with_capacity(BUFFER), position: 0, hasher: Hasher::new() }
    }

    /// Writes zeros up to `position`; long runs become holes.
    pub(super) fn zeros_until(&mut self, position: u64) -> io::Result<()> {
        let count = position.saturating_sub(self.position);
        if count < HOLE {
            return self.write_all(zeros(count));
        }
        self.flush()?;
        let mut left = count;
        while left > 0 {
            let part = left.min(ZEROS.len() as u64);
            self.hasher.update(zeros(part));
            left -= part;
        }
        self.file.seek(SeekFrom::Start(position))?;
        self.position = position;
        Ok(())
    }

    /// Writes zeros up to the next whole block.
    pub(super) fn fill_block(&mut self) -> io::Result<()> {
        self.zeros_until(self.position.next_multiple_of(BLOCK_U64))
    }

    /// Pads the file with zeros to `size` and syncs it.
    pub(super) fn finish(mut self, size: u64) -> io::Result<Digest> {
        self.zeros_until(size)?;
        self.flush()?;
        self.file.set_len(size)?;
        self.file.sync_all()?;
        Ok(self.hasher.finish())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            self.hasher.update(bytes);
            self.file.write_all(bytes)?;
        } else {
            self.buffer.extend(bytes);
        }
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// A slice of `count` zeros, of at most `ZEROS.len()`.
#[expect(clippy::expect_used, reason = "callers ask for no more than there are")]
fn zeros(count: u64) -> &'static [u8] {
    let zeros = usize::try_from(count).ok().and_then(|count| ZEROS.get(..count));
    zeros.expect("a run of zeros is not longer than ZEROS")
}
