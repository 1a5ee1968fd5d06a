//! Frames put together from what arrives.

use supermachine_formats::codec::DecodeError;
use supermachine_formats::wire::{HEADER_SIZE, Header, Message};

/// Arrived bytes that were not taken yet: less than two frames, and what came with them.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    start: usize,
}

impl Frames {
    /// Adds bytes as they arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole frame.
    pub(crate) fn next<M: Message>(&mut self) -> Result<Option<M>, DecodeError> {
        let waiting = self.bytes.get(self.start..).unwrap_or_default();
        let Some((header, rest)) = waiting.split_first_chunk::<HEADER_SIZE>() else {
            return Ok(None);
        };
        let header = Header::decode(*header)?;
        let Some(payload) = rest.get(..header.length) else { return Ok(None) };
        let message = M::decode(header.kind, payload)?;
        self.start += HEADER_SIZE + header.length;
        Ok(Some(message))
    }
}
