//! Fills the driver's buffers with the host kernel's random bytes.
//!
//! Owns an open `/dev/urandom`, so that filling a buffer is one system call. It keeps no random
//! bytes: two machines of one snapshot never see the same.

use std::fs::File;
use std::io::Read;

use supermachine_formats::snapshot::device as formats;

use crate::devices::virtio::Device;
use crate::devices::virtio::queue::{Broken, Chain, QueuePlan, Queues};

const DEVICE_ID: u32 = 4;
/// One queue of buffers to fill.
pub(super) const QUEUES: [QueuePlan; 1] = [QueuePlan { max_size: 64, patience: 0 }];
/// The most random bytes that one buffer gets. The driver asks again for more.
const MAX_FILL: usize = 64 << 10;
/// Bytes fetched at once.
const PIECE: usize = 4096;

/// A source of random bytes.
#[derive(Debug)]
pub(crate) struct Rng {
    pub(super) source: File,
    pub(super) chain: Chain,
}

impl Rng {
    fn fill(&mut self, queues: &Queues) -> Result<usize, Broken> {
        let length = self.chain.writable_length().min(MAX_FILL);
        let mut filled = 0;
        let mut buffer = [0; PIECE];
        while filled < length {
            let piece = buffer.get_mut(..PIECE.min(length - filled)).ok_or(Broken)?;
            // The kernel's generator does not fail once it is open; give what there is.
            let Ok(count @ 1..) = self.source.read(piece) else { break };
            self.chain.write(queues.memory(), filled, piece.get(..count).ok_or(Broken)?)?;
            filled += count;
        }
        Ok(filled)
    }
}

impl Device for Rng {
    fn id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &'static [QueuePlan] {
        &QUEUES
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn notify(&mut self, index: usize, queues: &mut Queues) -> Result<(), Broken> {
        for _ in 0..queues.size(index) {
            if !queues.pop(index, &mut self.chain)? {
                break;
            }
            let filled = self.fill(queues)?;
            queues.push(index, &self.chain, filled)?;
        }
        Ok(())
    }

    fn reset(&mut self) {}

    fn state(&self, transport: formats::Virtio) -> formats::Slot {
        formats::Slot::Rng(transport)
    }
}
