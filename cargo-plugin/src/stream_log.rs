//! A log of two streams: pieces, each with the number of its stream and its length.
//!
//! ```text
//! u8 stream (1 standard output, 2 standard error) · u32 length, little-endian · bytes
//! ```

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// The number of standard output.
pub(crate) const STDOUT: u8 = 1;
/// The number of standard error.
pub(crate) const STDERR: u8 = 2;
/// The largest piece of a log that is read at once.
const MAX_PIECE: u32 = 16 << 20;
/// The bytes before a piece's content.
const HEADER: u64 = 5;

/// A writer that appends to a log as one of its streams.
#[derive(Debug)]
pub(crate) struct Stream<W> {
    number: u8,
    log: Arc<Mutex<W>>,
}

impl<W: Write> Stream<W> {
    /// Writers for both streams.
    pub(crate) fn pair(log: &Arc<Mutex<W>>) -> (Self, Self) {
        let stream = |number| Self { number, log: Arc::clone(log) };
        (stream(STDOUT), stream(STDERR))
    }
}

impl<W: Write> Write for Stream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = u32::try_from(bytes.len()).unwrap_or(MAX_PIECE).min(MAX_PIECE);
        let bytes = bytes.split_at(count as usize).0;
        // A piece at once, so that readers of a file never see half of one.
        let piece = piece(self.number, bytes);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.write_all(&piece)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

/// A piece of a stream, at most [`MAX_PIECE`] bytes of it.
pub(crate) fn piece(stream: u8, bytes: &[u8]) -> Vec<u8> {
    let count = u32::try_from(bytes.len()).unwrap_or(MAX_PIECE).min(MAX_PIECE);
    let bytes = bytes.split_at(count as usize).0;
    [&[stream], count.to_le_bytes().as_slice(), bytes].concat()
}

/// The bytes of its stream in a piece.
pub(crate) fn content_of(piece: &[u8]) -> u64 {
    (piece.len() as u64).saturating_sub(HEADER)
}

/// Copies a log to two writers. Stops at the end, or at a piece that is not complete.
pub(crate) fn copy(
    log: &mut impl Read,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> Result<(), CopyError> {
    while let Some((stream, bytes)) = next(log).map_err(CopyError::Read)? {
        let written = if stream == STDERR {
            stderr.write_all(&bytes).and_then(|()| stderr.flush())
        } else {
            stdout.write_all(&bytes).and_then(|()| stdout.flush())
        };
        written.map_err(CopyError::Write)?;
    }
    Ok(())
}

/// Which side of a copy failed.
#[derive(Debug)]
pub(crate) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// The next piece of a log, with the number of its stream.
fn next(log: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut header = [0; 5];
    match log.read(header.get_mut(..1).unwrap_or_default())? {
        0 => return Ok(None),
        _ => log.read_exact(header.get_mut(1..).unwrap_or_default())?,
    }
    let [stream, count @ ..] = header;
    let count = u32::from_le_bytes(count);
    if count > MAX_PIECE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; count as usize];
    log.read_exact(&mut bytes)?;
    Ok(Some((stream, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_keeps_streams_apart_and_in_order() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let (mut stdout, mut stderr) = Stream::pair(&log);
        stdout.write_all(b"one").unwrap();
        stderr.write_all(b"two").unwrap();
        stdout.write_all(b"three").unwrap();
        let bytes = log.lock().unwrap().clone();
        let mut rest = bytes.as_slice();
        assert_eq!(next(&mut rest).unwrap(), Some((STDOUT, b"one".to_vec())));
        assert_eq!(next(&mut rest).unwrap(), Some((STDERR, b"two".to_vec())));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        copy(&mut bytes.as_slice(), &mut out, &mut err).unwrap();
        assert_eq!((out.as_slice(), err.as_slice()), (&b"onethree"[..], &b"two"[..]));
        assert!(next(&mut &bytes[..3]).is_err());
        assert!(next(&mut &[1, 255, 255, 255, 255][..]).is_err());
    }
}
