//! The bytes of an archive or a blob: in a file, or embedded in the program.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes with random access.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// In a file.
    File(Arc<File>),
    /// In the running program, whose pages are loaded on demand.
    Embedded(Embedded),
}

/// Bytes of the program. Its `Debug` output shows only their number.
#[derive(Clone, Copy)]
pub(super) struct Embedded(pub(super) &'static [u8]);

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Embedded({} bytes)", self.0.len())
    }
}

impl Content {
    /// Their number.
    pub(super) fn size(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => file.metadata().map(|metadata| metadata.len()),
            Self::Embedded(Embedded(bytes)) => Ok(bytes.len() as u64),
        }
    }

    /// Fills `buffer` from `offset` on.
    pub(super) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, offset),
            Self::Embedded(Embedded(bytes)) => {
                let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
                let wanted = rest.and_then(|rest| rest.get(..buffer.len()));
                buffer.copy_from_slice(wanted.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

impl From<File> for Content {
    fn from(file: File) -> Self {
        Self::File(Arc::new(file))
    }
}
