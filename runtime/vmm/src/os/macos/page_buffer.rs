//! Large buffers.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A large buffer. The allocator gives it a mapping of its own, which goes back to the host when it
/// is dropped.
#[derive(Debug)]
pub(crate) struct PageBuffer(Vec<u8>);

impl PageBuffer {
    /// A buffer of zeros.
    ///
    /// # Errors
    /// The host has no memory.
    pub(crate) fn new(size: usize) -> io::Result<Self> {
        let mut buffer = Self(Vec::new());
        buffer.resize(size)?;
        Ok(buffer)
    }

    /// A buffer with a copy of a file's content. Nothing keeps another process from changing the
    /// file, so it is not mapped.
    ///
    /// # Errors
    /// The file has another size, or cannot be read.
    pub(crate) fn of_sealed(file: &File, size: usize) -> io::Result<Self> {
        if size == 0 || file.metadata()?.len() != size as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut buffer = Self::new(size)?;
        file.read_exact_at(buffer.bytes_mut(), 0)?;
        Ok(buffer)
    }

    /// Makes the buffer larger or smaller. Keeps the content as far as it fits.
    ///
    /// # Errors
    /// The host has no memory. The buffer is unchanged then.
    pub(crate) fn resize(&mut self, size: usize) -> io::Result<()> {
        let more = size.saturating_sub(self.0.len());
        self.0.try_reserve_exact(more).map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.0.resize(size, 0);
        self.0.shrink_to_fit();
        Ok(())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
