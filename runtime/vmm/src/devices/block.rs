//! A read-only disk behind a request queue (virtio device 2).
//!
//! Serves read, flush and identify requests from a file, on the thread that notifies. Owns a handle
//! of the file. The disk is never written: it is part of a snapshot.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use supermachine_formats::snapshot::device as formats;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};

use super::device::{Device, DiskFile, Resources};
use super::error::DeviceError;
use super::mmio::fresh_transport;
use super::queue::{DescriptorChain, QueueConfig, QueueViolation, Queues};

/// The most data segments in a request: the queue also holds a header and a status.
const MAX_SEGMENTS: u32 = 254;
const SECTOR_SIZE: u64 = 512;
/// Type, reserved, sector.
const HEADER_SIZE: usize = 16;
/// The longest read: more than any driver asks for at once. Bounds a request's time.
const MAX_READ: usize = 4 << 20;
/// Bytes read at once.
const PIECE: usize = 64 << 10;

/// A disk that no driver has found yet.
pub(crate) fn fresh_block(disk: u8) -> formats::Slot {
    formats::Slot::Block(fresh_transport::<Block>(), formats::Block { disk })
}

/// A read-only disk.
#[derive(Debug)]
pub(crate) struct Block {
    disk: u8,
    file: Arc<File>,
    sectors: u64,
    config: [u8; 16],
    chain: DescriptorChain,
    /// The buffer of reads; grows to one piece with the first.
    buffer: Vec<u8>,
}

impl Block {
    /// Serves the request in `self.chain`. Returns the number of bytes written and the status.
    fn request(&mut self, queues: &Queues, room: usize) -> Result<(usize, u32), QueueViolation> {
        let mut header = [0; HEADER_SIZE];
        if self.chain.read(queues.memory(), 0, &mut header).is_err() {
            return Ok((0, VIRTIO_BLK_S_IOERR));
        }
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        match u32::from_le_bytes([a, b, c, d]) {
            VIRTIO_BLK_T_IN => self.read(queues, u64::from_le_bytes(sector), room),
            VIRTIO_BLK_T_FLUSH => Ok((0, VIRTIO_BLK_S_OK)),
            VIRTIO_BLK_T_GET_ID => self.identify(queues, room),
            VIRTIO_BLK_T_OUT => Ok((0, VIRTIO_BLK_S_IOERR)),
            _ => Ok((0, VIRTIO_BLK_S_UNSUPP)),
        }
    }

    fn read(
        &mut self,
        queues: &Queues,
        sector: u64,
        length: usize,
    ) -> Result<(usize, u32), QueueViolation> {
        let count = length as u64 / SECTOR_SIZE;
        let whole = (length as u64).is_multiple_of(SECTOR_SIZE);
        let end = sector.checked_add(count).filter(|end| *end <= self.sectors);
        let (true, Some(_), true) = (whole, end, length <= MAX_READ) else {
            return Ok((0, VIRTIO_BLK_S_IOERR));
        };
        // Cannot overflow: the sector is on the disk.
        let start = sector * SECTOR_SIZE;
        let mut done = 0;
        while done < length {
            let size = PIECE.min(length - done);
            if self.buffer.len() < size {
                self.buffer.resize(size, 0);
            }
            let piece = self.buffer.get_mut(..size).ok_or(QueueViolation)?;
            if self.file.read_exact_at(piece, start + done as u64).is_err() {
                return Ok((done, VIRTIO_BLK_S_IOERR));
            }
            self.chain.write(queues.memory(), done, piece)?;
            done += size;
        }
        Ok((done, VIRTIO_BLK_S_OK))
    }

    fn identify(&self, queues: &Queues, room: usize) -> Result<(usize, u32), QueueViolation> {
        let mut name = [0; VIRTIO_BLK_ID_BYTES as usize];
        let text = format!("supermachine-{}", self.disk);
        name.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        if room < name.len() {
            return Ok((0, VIRTIO_BLK_S_IOERR));
        }
        self.chain.write(queues.memory(), 0, &name)?;
        Ok((name.len(), VIRTIO_BLK_S_OK))
    }
}

impl Device for Block {
    const NAME: &'static str = "block";
    const ID: u32 = 2;
    /// One request queue.
    const QUEUES: &'static [QueueConfig] = &[QueueConfig { max_size: 256, interrupt_threshold: 0 }];

    type State = formats::Block;

    fn split(slot: &formats::Slot) -> Option<(&formats::Virtio, &formats::Block)> {
        match slot {
            formats::Slot::Block(transport, state) => Some((transport, state)),
            _ => None,
        }
    }

    fn from_state(state: &formats::Block, resources: &Resources<'_>) -> Result<Self, DeviceError> {
        let disk = state.disk;
        let with_file = |found: &DiskFile| Some((Arc::clone(found.file.as_ref()?), found.size));
        let found = resources.disks.get(usize::from(disk)).and_then(with_file);
        let Some((file, size)) = found else {
            let found = disk.into();
            return Err(DeviceError::Field { device: Self::NAME, field: "disk", found });
        };
        let sectors = size / SECTOR_SIZE;
        // Capacity, largest segment (not offered), most segments.
        let mut config = [0; 16];
        let (capacity, limits) = config.split_at_mut(8);
        capacity.copy_from_slice(&sectors.to_le_bytes());
        let segments = MAX_SEGMENTS.to_le_bytes();
        limits.iter_mut().skip(4).zip(segments).for_each(|(to, from)| *to = from);
        Ok(Self {
            disk,
            file,
            sectors,
            config,
            chain: DescriptorChain::default(),
            buffer: Vec::new(),
        })
    }

    fn state(&self, transport: formats::Virtio) -> formats::Slot {
        formats::Slot::Block(transport, formats::Block { disk: self.disk })
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_BLK_F_RO | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_FLUSH
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notify(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueViolation> {
        for _ in 0..queues.size(index) {
            if !queues.pop(index, &mut self.chain)? {
                break;
            }
            // The status is the last byte that the device may write.
            let room = self.chain.writable_length().checked_sub(1).ok_or(QueueViolation)?;
            let (written, status) = self.request(queues, room)?;
            let status = u8::try_from(status).map_err(|_| QueueViolation)?;
            self.chain.write(queues.memory(), room, &[status])?;
            let written = if written == room { room + 1 } else { written };
            queues.push(index, &self.chain, written)?;
        }
        Ok(())
    }
}
