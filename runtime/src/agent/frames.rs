//! Frames, assembled from a stream's bytes.

use std::io;

use supermachine_formats::codec::DecodeError;
use supermachine_formats::wire::{HEADER_SIZE, Header, Message};

use super::backlog::Backlog;

/// The size of one read.
pub(crate) const PIECE: usize = 64 << 10;

/// Received bytes that are not decoded yet.
#[derive(Debug, Default)]
pub(crate) struct Frames(Backlog);

impl Frames {
    /// Appends received bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.end().extend_from_slice(bytes);
    }

    /// Has `read` append bytes, and returns their number.
    pub(crate) fn fill(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let bytes = self.0.end();
        let end = bytes.len();
        bytes.resize(end + PIECE, 0);
        let count = read(&mut bytes[end..]);
        bytes.truncate(end + count.as_ref().map_or(0, |count| *count));
        count
    }

    /// Decodes the next complete frame.
    pub(crate) fn next<M: Message>(&mut self) -> Result<Option<M>, DecodeError> {
        let Some((header, rest)) = self.0.waiting().split_first_chunk::<HEADER_SIZE>() else {
            return Ok(None);
        };
        let header = Header::decode(*header)?;
        let Some(payload) = rest.get(..header.length) else { return Ok(None) };
        let message = M::decode(header.kind, payload)?;
        self.0.gone(HEADER_SIZE + header.length);
        Ok(Some(message))
    }
}
