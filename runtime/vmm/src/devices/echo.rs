//! A device for tests of the seam: returns each buffer's bytes, and counts them.
//!
//! The formats know no such device, so its state is in the record of a socket device whose guest
//! address no guest can have: `next_port` is the count.

use supermachine_formats::snapshot::device as formats;

use super::device::{Device, Resources};
use super::error::DeviceError;
use super::mmio::fresh_transport;
use super::queue::{DescriptorChain, QueueConfig, QueueViolation, Queues};

const MARK: u64 = u64::MAX;

/// An echo that no driver has found yet.
pub(crate) fn fresh_echo() -> formats::Slot {
    Echo::default().state(fresh_transport::<Echo>())
}

/// The number of bytes that an echo has returned; `None` for another device.
pub(crate) fn echoes(slot: &formats::Slot) -> Option<u32> {
    Echo::split(slot).map(|(_, state)| state.next_port)
}

/// An echo.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    count: u32,
    chain: DescriptorChain,
}

impl Device for Echo {
    const NAME: &'static str = "echo";
    const ID: u32 = 63;
    const QUEUES: &'static [QueueConfig] = &[QueueConfig { max_size: 8, interrupt_threshold: 0 }];

    type State = formats::Vsock;

    fn split(slot: &formats::Slot) -> Option<(&formats::Virtio, &formats::Vsock)> {
        match slot {
            formats::Slot::Vsock(transport, state) if state.guest_cid == MARK => {
                Some((transport, state))
            }
            _ => None,
        }
    }

    fn from_state(state: &formats::Vsock, _: &Resources<'_>) -> Result<Self, DeviceError> {
        Ok(Self { count: state.next_port, chain: DescriptorChain::default() })
    }

    fn state(&self, transport: formats::Virtio) -> formats::Slot {
        let connections = Vec::new();
        let state = formats::Vsock { guest_cid: MARK, next_port: self.count, connections };
        formats::Slot::Vsock(transport, state)
    }

    fn notify(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueViolation> {
        while queues.pop(index, &mut self.chain)? {
            let mut bytes = vec![0; self.chain.readable_length()];
            self.chain.read(queues.memory(), 0, &mut bytes)?;
            self.chain.write(queues.memory(), 0, &bytes)?;
            self.count += u32::try_from(bytes.len()).map_err(|_| QueueViolation)?;
            queues.push(index, &self.chain, bytes.len())?;
        }
        Ok(())
    }
}
