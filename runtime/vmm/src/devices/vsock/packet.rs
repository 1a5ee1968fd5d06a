//! The header of a packet (virtio 1.2, section 5.10.6).
//!
//! Owns the layout alone: any 44 bytes decode, and what they mean is judged by the device.

/// Bytes of a header.
pub(super) const HEADER_SIZE: usize = 44;
/// The host's context id.
pub(super) const HOST_CID: u64 = 2;
/// The only socket type offered.
pub(super) const TYPE_STREAM: u16 = 1;
/// The most payload in one packet.
pub(super) const MAX_PAYLOAD: usize = 64 << 10;

/// The sender takes no more data.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// The sender sends no more data.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// Both.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

pub(super) const OP_REQUEST: u16 = 1;
pub(super) const OP_RESPONSE: u16 = 2;
pub(super) const OP_RST: u16 = 3;
pub(super) const OP_SHUTDOWN: u16 = 4;
pub(super) const OP_RW: u16 = 5;
pub(super) const OP_CREDIT_UPDATE: u16 = 6;
pub(super) const OP_CREDIT_REQUEST: u16 = 7;

/// A packet's header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) destination_cid: u64,
    pub(super) source_port: u32,
    pub(super) destination_port: u32,
    pub(super) length: u32,
    pub(super) kind: u16,
    pub(super) operation: u16,
    pub(super) flags: u32,
    /// The sender's buffer space.
    pub(super) buffer: u32,
    /// Bytes that the sender has consumed, modulo 2^32.
    pub(super) consumed: u32,
}

impl Header {
    /// The header in 44 bytes.
    pub(super) fn decode(bytes: &[u8; HEADER_SIZE]) -> Self {
        let mut rest = bytes.as_slice();
        Self {
            source_cid: u64::from_le_bytes(take(&mut rest)),
            destination_cid: u64::from_le_bytes(take(&mut rest)),
            source_port: u32::from_le_bytes(take(&mut rest)),
            destination_port: u32::from_le_bytes(take(&mut rest)),
            length: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            operation: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buffer: u32::from_le_bytes(take(&mut rest)),
            consumed: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// The 44 bytes of the header.
    pub(super) fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let mut rest = bytes.as_mut_slice();
        put(&mut rest, self.source_cid.to_le_bytes());
        put(&mut rest, self.destination_cid.to_le_bytes());
        put(&mut rest, self.source_port.to_le_bytes());
        put(&mut rest, self.destination_port.to_le_bytes());
        put(&mut rest, self.length.to_le_bytes());
        put(&mut rest, self.kind.to_le_bytes());
        put(&mut rest, self.operation.to_le_bytes());
        put(&mut rest, self.flags.to_le_bytes());
        put(&mut rest, self.buffer.to_le_bytes());
        put(&mut rest, self.consumed.to_le_bytes());
        bytes
    }
}

/// The next `N` bytes; the fields sum up to the header's size, so there are always enough.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    match rest.split_first_chunk() {
        Some((field, later)) => {
            *rest = later;
            *field
        }
        None => [0; N],
    }
}

fn put<const N: usize>(rest: &mut &mut [u8], field: [u8; N]) {
    if let Some((place, later)) = std::mem::take(rest).split_first_chunk_mut() {
        *place = field;
        *rest = later;
    }
}
