//! A read-only disk that the guest sees as memory (virtio device 27).
//!
//! The machine maps the window; the device only reports where it is. The window is read-only, so a
//! flush has nothing to write.

#[cfg(test)]
mod tests;

use supermachine_formats::snapshot::device as formats;

use super::device::{Device, Resources};
use super::error::DeviceError;
use super::mmio::fresh_transport;
use super::queue::{DescriptorChain, QueueConfig, QueueViolation, Queues};

/// Windows start and end at a multiple of this: the guest maps them page by page.
const PAGE_SIZE: u64 = 4096;
/// Bytes of a flush request and of its answer.
const REQUEST_SIZE: usize = 4;
const FLUSH: u32 = 0;
const DONE: u32 = 0;
const FAILED: u32 = 1;

/// A mapped disk that no driver has found yet.
pub(crate) fn fresh_pmem(disk: u8, address: u64, size: u64) -> formats::Slot {
    formats::Slot::Pmem(fresh_transport::<Pmem>(), formats::Pmem { disk, address, size })
}

/// A read-only disk in a window of guest memory.
#[derive(Debug)]
pub(crate) struct Pmem {
    disk: u8,
    address: u64,
    size: u64,
    config: [u8; 16],
    chain: DescriptorChain,
}

impl Device for Pmem {
    const NAME: &'static str = "pmem";
    const ID: u32 = 27;
    /// One queue of flush requests.
    const QUEUES: &'static [QueueConfig] = &[QueueConfig { max_size: 64, interrupt_threshold: 0 }];

    type State = formats::Pmem;

    fn split(slot: &formats::Slot) -> Option<(&formats::Virtio, &formats::Pmem)> {
        match slot {
            formats::Slot::Pmem(transport, state) => Some((transport, state)),
            _ => None,
        }
    }

    fn from_state(state: &formats::Pmem, resources: &Resources<'_>) -> Result<Self, DeviceError> {
        let formats::Pmem { disk, address, size } = *state;
        let illegal = |field, found| DeviceError::Field { device: Self::NAME, field, found };
        let Some(file) = resources.disks.get(usize::from(disk)) else {
            return Err(illegal("disk", disk.into()));
        };
        if address == 0 || address % PAGE_SIZE != 0 || address.checked_add(size).is_none() {
            return Err(illegal("address", address));
        }
        if size == 0 || size % PAGE_SIZE != 0 || size < file.size {
            return Err(illegal("size", size));
        }
        let mut config = [0; 16];
        let (start, length) = config.split_at_mut(8);
        start.copy_from_slice(&address.to_le_bytes());
        length.copy_from_slice(&size.to_le_bytes());
        Ok(Self { disk, address, size, config, chain: DescriptorChain::default() })
    }

    fn state(&self, transport: formats::Virtio) -> formats::Slot {
        let Self { disk, address, size, .. } = *self;
        formats::Slot::Pmem(transport, formats::Pmem { disk, address, size })
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notify(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueViolation> {
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
}
