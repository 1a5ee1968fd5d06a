//! The disk's state: which it is and where its window lies.

use supermachine_formats::snapshot::device as formats;

use super::device::{Pmem, QUEUES};
use crate::devices::virtio::mmio::fresh_transport;
use crate::devices::virtio::queue::Chain;
use crate::devices::virtio::{DeviceError, DiskFile};

/// Windows start and end at a multiple of this: the guest maps them page by page.
const PAGE_SIZE: u64 = 4096;

/// A mapped disk that no driver has seen yet.
pub(crate) fn fresh_pmem(disk: u8, address: u64, size: u64) -> formats::Slot {
    let state = formats::Pmem { disk, address, size };
    formats::Slot::Pmem(fresh_transport(&QUEUES), state)
}

impl Pmem {
    /// The device that a state describes.
    ///
    /// # Errors
    /// There is no such disk, or its window is not one.
    pub(crate) fn from_state(
        state: &formats::Pmem,
        disks: &[DiskFile],
    ) -> Result<Self, DeviceError> {
        let formats::Pmem { disk, address, size } = *state;
        let illegal = |field, found| DeviceError::Field { device: "pmem", field, found };
        let Some(file) = disks.get(usize::from(disk)) else {
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
        Ok(Self { disk, address, size, config, chain: Chain::default() })
    }
}
