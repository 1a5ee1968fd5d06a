//! The host's side of a framed connection.
//!
//! A frame of its own marks the end of the host's bytes. The host never half-closes the stream,
//! so a stream that closes without that frame is a broken connection.

use alloc::vec::Vec;

use super::field::read_chunk;
use super::frame::{Message, unknown_kind};
use crate::codec::{DecodeError, Put, Reader};

/// Host to agent on a framed connection, after the request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Segment {
    /// Bytes for the connection, at most [`MAX_CHUNK`](super::MAX_CHUNK).
    Data(Vec<u8>),
    /// The end of the host's bytes. The other direction stays open.
    End,
}

impl Segment {
    /// The kind of a frame of bytes, for code that builds such frames in place.
    pub const DATA: u16 = 0x51;
}

impl Message for Segment {
    fn kind(&self) -> u16 {
        match self {
            Self::Data(_) => Self::DATA,
            Self::End => 0x52,
        }
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Data(bytes) => out.put(bytes),
            Self::End => {}
        }
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = match kind {
            Self::DATA => Self::Data(read_chunk(&mut reader)?),
            0x52 => Self::End,
            _ => return Err(unknown_kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
}
