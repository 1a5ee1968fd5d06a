//! The way to the guest: its receive queue.

use super::packet::{HEADER_SIZE, Header, MAX_PAYLOAD};
use crate::devices::queue::{DescriptorChain, QueueViolation, Queues};

/// The receive queue's number.
pub(super) const RECEIVE: usize = 0;

/// Fills the guest's receive buffers.
#[derive(Debug)]
pub(super) struct Receiver {
    guest_cid: u64,
    chain: DescriptorChain,
    /// Carries bytes from a socket to the guest; grows to one payload with the first.
    buffer: Vec<u8>,
}

impl Receiver {
    /// The receive queue of the guest with this context id.
    pub(super) fn new(guest_cid: u64) -> Self {
        Self { guest_cid, chain: DescriptorChain::default(), buffer: Vec::new() }
    }

    /// Whether the guest has a buffer.
    pub(super) fn has_buffer(&self, queues: &Queues) -> bool {
        queues.has_next(RECEIVE)
    }

    /// Sends a packet with as much of the payload as the guest's next buffer holds. Returns the
    /// number of payload bytes sent, or `None` if there is no buffer.
    pub(super) fn send(
        &mut self,
        queues: &mut Queues,
        header: Header,
        payload: &[u8],
    ) -> Result<Option<usize>, QueueViolation> {
        if !queues.pop(RECEIVE, &mut self.chain)? {
            return Ok(None);
        }
        let room = self.chain.writable_length().checked_sub(HEADER_SIZE).ok_or(QueueViolation)?;
        let count = payload.len().min(room);
        if count == 0 && !payload.is_empty() {
            return Err(QueueViolation);
        }
        let length = u32::try_from(count).map_err(|_| QueueViolation)?;
        let header = Header { destination_cid: self.guest_cid, length, ..header };
        self.chain.write(queues.memory(), 0, &header.encode())?;
        let payload = payload.split_at(count).0;
        self.chain.write(queues.memory(), HEADER_SIZE, payload)?;
        queues.push(RECEIVE, &self.chain, HEADER_SIZE + count)?;
        Ok(Some(count))
    }

    /// The buffer for one payload.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(MAX_PAYLOAD, 0);
        buffer
    }

    /// Keeps the buffer for the next payload.
    pub(super) fn return_buffer(&mut self, buffer: Vec<u8>) {
        self.buffer = buffer;
    }
}
