//! Serves read, flush and identify requests from a file, on the thread that notifies.
//!
//! Owns a handle of the disk's file. The disk is never written: it is part of a snapshot.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use supermachine_formats::snapshot::device as formats;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};

use crate::devices::virtio::Device;
use crate::devices::virtio::queue::{Broken, Chain, QueuePlan, Queues};

const DEVICE_ID: u32 = 2;
/// One request queue.
pub(super) const QUEUES: [QueuePlan; 1] = [QueuePlan { max_size: 256, patience: 0 }];
/// The most data segments in a request: what the queue holds beside header and status.
pub(super) const MAX_SEGMENTS: u32 = 254;
pub(super) const SECTOR_SIZE: u64 = 512;
/// Type, reserved, sector.
const HEADER_SIZE: usize = 16;
/// The longest read: more than any driver asks for at once. Bounds a request's time.
const MAX_READ: usize = 4 << 20;
/// Bytes read at once.
const PIECE: usize = 64 << 10;

/// A read-only disk.
#[derive(Debug)]
pub(crate) struct Block {
    pub(super) disk: u8,
    pub(super) file: Arc<File>,
    pub(super) sectors: u64,
    pub(super) config: [u8; 16],
    pub(super) chain: Chain,
    /// What a read passes through; grows to one piece with the first.
    pub(super) buffer: Vec<u8>,
}

impl Block {
    /// Carries out the request in `self.chain`; gives the bytes written and the status.
    fn request(&mut self, queues: &Queues, room: usize) -> Result<(usize, u32), Broken> {
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
    ) -> Result<(usize, u32), Broken> {
        let count = length as u64 / SECTOR_SIZE;
        let whole = (length as u64).is_multiple_of(SECTOR_SIZE);
        let end = sector.checked_add(count).filter(|end| *end <= self.sectors);
        let (true, Some(_), true) = (whole, end, length <= MAX_READ) else {
            return Ok((0, VIRTIO_BLK_S_IOERR));
        };
        // Cannot overflow: the sector lies on the disk.
        let start = sector * SECTOR_SIZE;
        let mut done = 0;
        while done < length {
            let size = PIECE.min(length - done);
            if self.buffer.len() < size {
                self.buffer.resize(size, 0);
            }
            let piece = self.buffer.get_mut(..size).ok_or(Broken)?;
            if self.file.read_exact_at(piece, start + done as u64).is_err() {
                return Ok((done, VIRTIO_BLK_S_IOERR));
            }
            self.chain.write(queues.memory(), done, piece)?;
            done += size;
        }
        Ok((done, VIRTIO_BLK_S_OK))
    }

    fn identify(&self, queues: &Queues, room: usize) -> Result<(usize, u32), Broken> {
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
    fn id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_BLK_F_RO | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_FLUSH
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
            // The status is the last byte that the device may write.
            let room = self.chain.writable_length().checked_sub(1).ok_or(Broken)?;
            let (written, status) = self.request(queues, room)?;
            let status = u8::try_from(status).map_err(|_| Broken)?;
            self.chain.write(queues.memory(), room, &[status])?;
            let written = if written == room { room + 1 } else { written };
            queues.push(index, &self.chain, written)?;
        }
        Ok(())
    }

    fn reset(&mut self) {}

    fn state(&self, transport: formats::Virtio) -> formats::Slot {
        formats::Slot::Block(transport, formats::Block { disk: self.disk })
    }
}
