//! Frames, which carry the messages, and the limits of their content.

use alloc::vec::Vec;

use crate::codec::{DecodeError, Put, Reader};

/// The version of this protocol, as in [`Event::Hello`](super::Event::Hello). Both sides must use
/// the same.
pub const VERSION: u16 = 7;
/// The host's vsock port that the agent connects its control stream to.
pub const CONTROL_PORT: u32 = 1;
/// The agent's vsock port for requests.
pub const REQUEST_PORT: u32 = 2;
/// Size of a frame's header in bytes: length, kind, reserved.
pub const HEADER_SIZE: usize = 8;
/// The largest payload of a frame in bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// The most bytes of a stream in one frame.
pub const MAX_CHUNK: usize = 64 << 10;
/// The most bytes of standard input in flight: sent, and not yet counted by a
/// [`Reply::StdinTaken`](super::Reply::StdinTaken). The agent always has room for them, so that a
/// program that does not read blocks no other message.
pub const STDIN_WINDOW: usize = 256 << 10;
/// The most arguments or environment variables of one command.
pub const MAX_STRINGS: usize = 16 << 10;
/// The longest path, host name or operation in a frame, in bytes.
pub const MAX_NAME: usize = 4096;
/// The most staged files of a command, and the most commands that may follow it.
pub const MAX_PARTS: usize = 256;
/// The largest mode of a file: permissions, set-user-id, set-group-id and sticky.
pub const MAX_MODE: u16 = 0o7777;
/// Size of the entropy in [`Control::Resume`](super::Control::Resume), in bytes.
pub const ENTROPY_SIZE: usize = 64;

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The number of payload bytes that follow.
    pub length: usize,
    /// The kind of message.
    pub kind: u16,
}

impl Header {
    /// Encodes the header.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_SIZE] {
        let length = u32::try_from(self.length).unwrap_or(u32::MAX).to_le_bytes();
        let [l0, l1, l2, l3] = length;
        let [k0, k1] = self.kind.to_le_bytes();
        [l0, l1, l2, l3, k0, k1, 0, 0]
    }

    /// Decodes a header.
    ///
    /// # Errors
    /// A length over [`MAX_PAYLOAD`], or reserved bytes that are not zero.
    pub fn decode(bytes: [u8; HEADER_SIZE]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(&bytes);
        let length = usize::try_from(reader.u32("frame length")?).unwrap_or(usize::MAX);
        if length > MAX_PAYLOAD {
            return Err(DecodeError::TooLarge {
                field: "frame length",
                offset: 0,
                value: length as u64,
                limit: MAX_PAYLOAD as u64,
            });
        }
        let kind = reader.u16("frame kind")?;
        match reader.u16("frame reserved")? {
            0 => Ok(Self { length, kind }),
            value => Err(reader.illegal("frame reserved", value.into())),
        }
    }
}

/// A message that travels as one frame.
pub trait Message: Sized {
    /// Returns the kind of the frame.
    fn kind(&self) -> u16;

    /// Appends the payload.
    fn put_payload(&self, out: &mut Vec<u8>);

    /// Decodes the payload of a frame.
    ///
    /// # Errors
    /// The kind is unknown, or the payload is malformed.
    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError>;

    /// Appends the whole frame.
    fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u32(0);
        out.put_u16(self.kind());
        out.put_u16(0);
        self.put_payload(out);
        let length = out.len() - start - HEADER_SIZE;
        if let Some(field) = out.get_mut(start..start + 4) {
            field.copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        }
    }

    /// Encodes the whole frame.
    fn to_frame(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

pub(super) fn unknown_kind(kind: u16) -> DecodeError {
    DecodeError::Illegal { field: "frame kind", offset: 4, value: kind.into() }
}
