//! A source of random bytes (virtio device 4).
//!
//! Fills the driver's buffers from the host kernel's generator. It keeps no random bytes: two
//! machines of one snapshot never see the same.

#[cfg(test)]
mod tests;

use supermachine_formats::snapshot::device as formats;

use super::device::{Device, Resources};
use super::error::DeviceError;
use super::mmio::fresh_transport;
use super::queue::{DescriptorChain, QueueConfig, QueueViolation, Queues};
use crate::os;

/// The most random bytes that one buffer gets. The driver asks again for more.
const MAX_FILL: usize = 64 << 10;
/// Bytes fetched at once.
const PIECE: usize = 4096;

/// A random source that no driver has found yet.
pub(crate) fn fresh_rng() -> formats::Slot {
    formats::Slot::Rng(fresh_transport::<Rng>())
}

/// A source of random bytes.
#[derive(Debug, Default)]
pub(crate) struct Rng {
    chain: DescriptorChain,
}

impl Rng {
    fn fill(&mut self, queues: &Queues) -> Result<usize, QueueViolation> {
        let length = self.chain.writable_length().min(MAX_FILL);
        let mut filled = 0;
        let mut buffer = [0; PIECE];
        while filled < length {
            let piece = buffer.get_mut(..PIECE.min(length - filled)).ok_or(QueueViolation)?;
            // The kernel's generator does not fail; the driver copes with a buffer cut short.
            if os::fill_random(piece).is_err() {
                break;
            }
            self.chain.write(queues.memory(), filled, piece)?;
            filled += piece.len();
        }
        Ok(filled)
    }
}

impl Device for Rng {
    const NAME: &'static str = "rng";
    const ID: u32 = 4;
    /// One queue of buffers to fill.
    const QUEUES: &'static [QueueConfig] = &[QueueConfig { max_size: 64, interrupt_threshold: 0 }];

    type State = ();

    fn split(slot: &formats::Slot) -> Option<(&formats::Virtio, &())> {
        match slot {
            formats::Slot::Rng(transport) => Some((transport, &())),
            _ => None,
        }
    }

    fn from_state((): &(), _: &Resources<'_>) -> Result<Self, DeviceError> {
        Ok(Self::default())
    }

    fn state(&self, transport: formats::Virtio) -> formats::Slot {
        formats::Slot::Rng(transport)
    }

    fn notify(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueViolation> {
        for _ in 0..queues.size(index) {
            if !queues.pop(index, &mut self.chain)? {
                break;
            }
            let filled = self.fill(queues)?;
            queues.push(index, &self.chain, filled)?;
        }
        Ok(())
    }
}
