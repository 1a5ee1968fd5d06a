//! The disk behind a volume's device: serves whole requests, on threads that may wait for the host's file system.

mod changes;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use self::changes::Changes;
use super::workers::Serve;
use crate::os::{punch_hole, zero_range};

pub(super) const SECTOR_SIZE: u64 = 512;
/// Type, reserved, sector.
pub(super) const HEADER_SIZE: usize = 16;
/// Sector, count of sectors, flags.
const SEGMENT_SIZE: usize = 16;
/// The bytes of the answer to a question for the disk's name.
const NAME_SIZE: usize = 20;
/// The most ranges of one discard.
pub(super) const MAX_SEGMENTS: u32 = 32;
/// The most sectors of one range: bounds the time of a host that has to write zeros.
pub(super) const MAX_SECTORS: u32 = 1 << 21;
/// The unit of a discard: smaller ones would free nothing.
pub(super) const DISCARD_SECTORS: u32 = 8;
/// Zeros that are written at once, where a file system has no other way.
const ZEROS: usize = 64 << 10;

/// A disk of the host for one machine.
#[derive(Debug)]
pub struct VolumeDisk {
    file: File,
    sectors: u64,
    /// What the guest has changed, if it may only read.
    changes: Option<Mutex<Changes>>,
}

/// What became of a request.
type Status = Result<(), u32>;

impl VolumeDisk {
    /// A disk of the first `size` bytes of a file, rounded down to 4 KiB. If it is read-only, the file
    /// need not be open for writing. What the guest then writes is kept in memory, up to 64 MiB, and gone
    /// with the machine: it cannot replay a file system's journal otherwise.
    #[must_use]
    pub fn new(file: File, size: u64, is_read_only: bool) -> Self {
        let sectors = size / 4096 * (4096 / SECTOR_SIZE);
        Self { file, sectors, changes: is_read_only.then(Mutex::default) }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.sectors * SECTOR_SIZE
    }

    /// Whether the guest's writes stay in memory.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.changes.is_some()
    }

    fn read(&self, sector: u64, into: &mut [u8]) -> Status {
        let start = self.start_of(sector, into.len() as u64)?;
        self.file.read_exact_at(into, start).map_err(failed)?;
        if let Some(changes) = &self.changes {
            changes.lock().unwrap_or_else(PoisonError::into_inner).cover(start, into);
        }
        Ok(())
    }

    fn write(&self, sector: u64, bytes: &[u8]) -> Status {
        let start = self.start_of(sector, bytes.len() as u64)?;
        let Some(changes) = &self.changes else {
            return self.file.write_all_at(bytes, start).map_err(failed);
        };
        let read = |at, block: &mut [u8]| self.file.read_exact_at(block, at).ok();
        let mut changes = changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.write(start, bytes, read).ok_or(VIRTIO_BLK_S_IOERR)
    }

    fn flush(&self) -> Status {
        if self.is_read_only() { Ok(()) } else { self.file.sync_data().map_err(failed) }
    }

    /// Frees ranges, or makes them zeros. All are checked before the first is touched.
    fn clear(&self, kind: u32, segments: &[u8]) -> Status {
        let count = segments.len() / SEGMENT_SIZE;
        if !segments.len().is_multiple_of(SEGMENT_SIZE) || count as u64 > MAX_SEGMENTS.into() {
            return Err(VIRTIO_BLK_S_IOERR);
        }
        let mut ranges = Vec::with_capacity(count);
        for segment in segments.chunks_exact(SEGMENT_SIZE) {
            ranges.push(self.range(kind, segment)?);
        }
        if self.is_read_only() {
            // A discard is a hint; and the driver writes zeros itself then.
            return if kind == VIRTIO_BLK_T_DISCARD { Ok(()) } else { Err(VIRTIO_BLK_S_UNSUPP) };
        }
        ranges.iter().try_for_each(|(start, length, frees)| {
            let done = if *frees {
                punch_hole(&self.file, *start, *length)
            } else {
                zero_range(&self.file, *start, *length)
            };
            match done {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    if kind == VIRTIO_BLK_T_DISCARD { Ok(()) } else { self.zero(*start, *length) }
                }
                done => done.map_err(failed),
            }
        })
    }

    /// Start, length, and whether the range's room is freed.
    fn range(&self, kind: u32, segment: &[u8]) -> Result<(u64, u64, bool), u32> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = segment else {
            return Err(VIRTIO_BLK_S_IOERR);
        };
        let sector = u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
        let count = u32::from_le_bytes([*i, *j, *k, *l]);
        let flags = u32::from_le_bytes([*m, *n, *o, *p]);
        let is_discard = kind == VIRTIO_BLK_T_DISCARD;
        let known = if is_discard { 0 } else { VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP };
        if flags & !known != 0 {
            return Err(VIRTIO_BLK_S_UNSUPP);
        }
        if count > MAX_SECTORS {
            return Err(VIRTIO_BLK_S_IOERR);
        }
        let length = u64::from(count) * SECTOR_SIZE;
        Ok((self.start_of(sector, length)?, length, is_discard || flags != 0))
    }

    fn zero(&self, start: u64, length: u64) -> Status {
        let zeros = vec![0; ZEROS];
        let mut done = 0;
        while done < length {
            let size = usize::try_from(length - done).map_or(ZEROS, |left| left.min(ZEROS));
            let piece = zeros.split_at(size).0;
            self.file.write_all_at(piece, start + done).map_err(failed)?;
            done += piece.len() as u64;
        }
        Ok(())
    }

    /// The place of whole sectors that are all on the disk.
    fn start_of(&self, sector: u64, length: u64) -> Result<u64, u32> {
        let end = sector.checked_add(length / SECTOR_SIZE).filter(|end| *end <= self.sectors);
        match end {
            // Cannot overflow: the sector is on the disk.
            Some(_) if length.is_multiple_of(SECTOR_SIZE) => Ok(sector * SECTOR_SIZE),
            _ => Err(VIRTIO_BLK_S_IOERR),
        }
    }
}

impl VolumeDisk {
    /// Answers a header with what follows it. The answer is `room` bytes, of which the last is the
    /// status.
    #[doc(hidden)]
    #[must_use]
    pub fn answer(&self, request: &[u8], room: usize) -> Vec<u8> {
        let mut answer = vec![0; room];
        let Some((status, data)) = answer.split_last_mut() else { return answer };
        let outcome = match request.split_first_chunk::<HEADER_SIZE>() {
            Some((header, rest)) => {
                let [a, b, c, d, _, _, _, _, sector @ ..] = *header;
                let sector = u64::from_le_bytes(sector);
                match u32::from_le_bytes([a, b, c, d]) {
                    VIRTIO_BLK_T_IN => self.read(sector, data),
                    VIRTIO_BLK_T_OUT => self.write(sector, rest),
                    VIRTIO_BLK_T_FLUSH => self.flush(),
                    kind @ (VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES) => {
                        self.clear(kind, rest)
                    }
                    VIRTIO_BLK_T_GET_ID => name(data),
                    _ => Err(VIRTIO_BLK_S_UNSUPP),
                }
            }
            None => Err(VIRTIO_BLK_S_IOERR),
        };
        let outcome = outcome.map_or_else(|status| status, |()| VIRTIO_BLK_S_OK);
        *status = u8::try_from(outcome).unwrap_or(u8::MAX);
        answer
    }
}

impl Serve for VolumeDisk {
    fn serve(&self, request: &[u8], room: usize) -> Vec<u8> {
        self.answer(request, room)
    }
}

fn name(into: &mut [u8]) -> Status {
    if into.len() < NAME_SIZE {
        return Err(VIRTIO_BLK_S_IOERR);
    }
    into.iter_mut().zip(*b"supermachine-volume").for_each(|(to, from)| *to = from);
    Ok(())
}

/// What a guest hears of the host's error, whatever it is: a full file system too.
fn failed(_: io::Error) -> u32 {
    VIRTIO_BLK_S_IOERR
}
