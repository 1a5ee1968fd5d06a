//! The disk's state: which it is.

use std::sync::Arc;

use supermachine_formats::snapshot::device as formats;

use super::device::{Block, MAX_SEGMENTS, QUEUES, SECTOR_SIZE};
use crate::devices::virtio::mmio::fresh_transport;
use crate::devices::virtio::queue::Chain;
use crate::devices::virtio::{DeviceError, DiskFile};

/// A disk that no driver has seen yet.
pub(crate) fn fresh_block(disk: u8) -> formats::Slot {
    formats::Slot::Block(fresh_transport(&QUEUES), formats::Block { disk })
}

impl Block {
    /// The device that a state describes.
    ///
    /// # Errors
    /// There is no such disk, or it has no file.
    pub(crate) fn from_state(
        state: &formats::Block,
        disks: &[DiskFile],
    ) -> Result<Self, DeviceError> {
        let disk = state.disk;
        let with_file = |found: &DiskFile| Some((Arc::clone(found.file.as_ref()?), found.size));
        let Some((file, size)) = disks.get(usize::from(disk)).and_then(with_file) else {
            let found = disk.into();
            return Err(DeviceError::Field { device: "block", field: "disk", found });
        };
        let sectors = size / SECTOR_SIZE;
        // Capacity, largest segment (not offered), most segments.
        let mut config = [0; 16];
        let (capacity, limits) = config.split_at_mut(8);
        capacity.copy_from_slice(&sectors.to_le_bytes());
        let segments = MAX_SEGMENTS.to_le_bytes();
        limits.iter_mut().skip(4).zip(segments).for_each(|(to, from)| *to = from);
        Ok(Self { disk, file, sectors, config, chain: Chain::default(), buffer: Vec::new() })
    }
}
