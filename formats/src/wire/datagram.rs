//! Datagrams of a flow.
//!
//! After [`Request::Datagrams`](super::Request::Datagrams) each frame of the stream is one datagram,
//! in either direction. A frame is one datagram with its exact length, so an empty datagram is an
//! empty frame.

use alloc::vec::Vec;

use super::frame::{HEADER_SIZE, Header, Message, unknown_kind};
use crate::codec::{DecodeError, Put};

/// The largest datagram in bytes: what UDP carries over IPv4.
pub const MAX_DATAGRAM: usize = 65_507;

/// One datagram, from either side of a flow; at most [`MAX_DATAGRAM`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram(pub Vec<u8>);

impl Datagram {
    /// The kind of its frame.
    pub const KIND: u16 = 0x53;

    /// The header of a datagram's frame, for code that builds such frames in place.
    #[must_use]
    pub fn header(length: usize) -> [u8; HEADER_SIZE] {
        Header { length, kind: Self::KIND }.encode()
    }

    /// Checks the header of a frame before its payload has arrived. Returns the payload's length.
    ///
    /// # Errors
    /// The frame is not a datagram, or longer than one.
    pub fn check(header: Header) -> Result<usize, DecodeError> {
        match header {
            Header { kind, .. } if kind != Self::KIND => Err(unknown_kind(kind)),
            Header { length, .. } if length > MAX_DATAGRAM => Err(DecodeError::TooLarge {
                field: "datagram",
                offset: 0,
                value: u64::try_from(length).unwrap_or(u64::MAX),
                limit: MAX_DATAGRAM as u64,
            }),
            Header { length, .. } => Ok(length),
        }
    }
}

impl Message for Datagram {
    fn kind(&self) -> u16 {
        Self::KIND
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        out.put(&self.0);
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        Self::check(Header { length: payload.len(), kind })?;
        Ok(Self(payload.to_vec()))
    }
}
