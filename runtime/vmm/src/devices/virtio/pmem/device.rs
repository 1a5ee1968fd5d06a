//! The disk's configuration and its flush queue.
//!
//! Owns no memory and no file: the window is read-only, so a flush has nothing to write.

use supermachine_formats::snapshot::device as formats;

use crate::devices::virtio::Device;
use crate::devices::virtio::queue::{Broken, Chain, QueuePlan, Queues};

const DEVICE_ID: u32 = 27;
/// One queue of flush requests.
pub(super) const QUEUES: [QueuePlan; 1] = [QueuePlan { max_size: 64, patience: 0 }];
/// Bytes of a flush request and of its answer.
const REQUEST_SIZE: usize = 4;
const FLUSH: u32 = 0;
const DONE: u32 = 0;
const FAILED: u32 = 1;

/// A read-only disk in a window of guest memory.
#[derive(Debug)]
pub(crate) struct Pmem {
    pub(super) disk: u8,
    pub(super) address: u64,
    pub(super) size: u64,
    pub(super) config: [u8; 16],
    pub(super) chain: Chain,
}

impl Device for Pmem {
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
        &self.config
    }

    fn notify(&mut self, index: usize, queues: &mut Queues) -> Result<(), Broken> {
        for _ in 0..queues.size(index) {
            if !queues.pop(index, &mut self.chain)? {
                break;
            }
            let mut request = [0; REQUEST_SIZE];
            self.chain.read(queues.memory(), 0, &mut request)?;
            let answer = if u32::from_le_bytes(request) == FLUSH { DONE } else { FAILED };
            self.chain.write(queues.memory(), 0, &answer.to_le_bytes())?;
            queues.push(index, &self.chain, REQUEST_SIZE)?;
        }
        Ok(())
    }

    fn reset(&mut self) {}

    fn state(&self, transport: formats::Virtio) -> formats::Slot {
        let Self { disk, address, size, .. } = *self;
        formats::Slot::Pmem(transport, formats::Pmem { disk, address, size })
    }
}
