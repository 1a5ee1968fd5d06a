//! The device's side: the driver's ring, requests in flight, and what a snapshot keeps.
//!
//! A snapshot's guest remembers a part of the disk that other machines have changed since. So a disk
//! that is restored with a driver is as if pulled out: it fails every request until the driver resets
//! it, and is a new disk from then on.
//!
//! Invariant: the driver's ring holds no request that waits while no request is in flight. So a state
//! without requests in flight holds everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use supermachine_formats::snapshot::device as formats;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR,
};

use super::super::device::{Device, Resources};
use super::super::error::DeviceError;
use super::super::event_loop::DeviceEvents;
use super::super::mmio::fresh_transport;
use super::super::queue::{DescriptorChain, QueueConfig, QueueViolation, Queues};
use super::super::volume_disk::{
    DISCARD_SECTORS, HEADER_SIZE, MAX_SECTORS, MAX_SEGMENTS, VolumeDisk,
};
use super::super::workers::{Job, Workers};
use crate::os::Readiness;

/// The most data segments in a request: the queue also holds a header and a status.
const MAX_DATA_SEGMENTS: u32 = 254;
/// The most bytes of data: more than any driver moves at once.
const MAX_DATA: usize = 4 << 20;
/// Requests that are worked on at once. Others wait in the ring.
const MAX_IN_FLIGHT: usize = 16;
/// The threads that wait for the disk's file.
const THREAD_NAME: &str = "sm-volume";
const CONFIG_SIZE: usize = 60;

/// A disk that no driver has found yet.
pub(crate) fn fresh_volume(name: &str, target: &str) -> formats::Slot {
    let state = formats::Volume { name: name.into(), target: target.into() };
    formats::Slot::Volume(fresh_transport::<Volume>(), state)
}

/// A writable disk of the host.
#[derive(Debug)]
pub(crate) struct Volume {
    state: formats::Volume,
    config: [u8; CONFIG_SIZE],
    /// `None` once the guest never runs again.
    disk: Option<Arc<VolumeDisk>>,
    /// Whether the driver's disk is one of before a restore.
    is_pulled_out: bool,
    events: DeviceEvents,
    /// Starts with the first request.
    workers: Option<Workers<VolumeDisk>>,
    last_ticket: u64,
    in_flight: BTreeMap<u64, DescriptorChain>,
}

impl Volume {
    /// Takes requests of the driver, as many as may be worked on.
    fn take(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueViolation> {
        let Some(disk) = self.disk.clone() else { return Ok(()) };
        // Refused requests are not in flight; the ring bounds them.
        for _ in 0..queues.size(index) {
            if self.in_flight.len() >= MAX_IN_FLIGHT {
                break;
            }
            let mut chain = DescriptorChain::default();
            if !queues.pop(index, &mut chain)? {
                break;
            }
            let (length, room) = (chain.readable_length(), chain.writable_length());
            // The status is the last byte that the device may write.
            let status = room.checked_sub(1).ok_or(QueueViolation)?;
            if self.is_pulled_out || length > HEADER_SIZE + MAX_DATA || room > MAX_DATA + 1 {
                refuse(&chain, status, index, queues)?;
                continue;
            }
            let mut request = vec![0; length];
            chain.read(queues.memory(), 0, &mut request)?;
            if self.workers.is_none() {
                // A host without threads is like a broken disk: the driver waits until a reset.
                let started = Workers::start(THREAD_NAME, Arc::clone(&disk), self.events.clone());
                self.workers = Some(started.map_err(|_| QueueViolation)?);
            }
            self.last_ticket += 1;
            if let Some(workers) = &self.workers {
                workers.add(Job { ticket: self.last_ticket, request, room });
            }
            self.in_flight.insert(self.last_ticket, chain);
        }
        Ok(())
    }

    /// Hands the answers over that are there.
    fn hand_over(&mut self, queues: &mut Queues) -> Result<(), QueueViolation> {
        let done = self.workers.as_ref().map(Workers::take_done).unwrap_or_default();
        for (ticket, answer) in done {
            let Some(chain) = self.in_flight.remove(&ticket) else { continue };
            chain.write(queues.memory(), 0, &answer)?;
            queues.push(0, &chain, answer.len())?;
        }
        Ok(())
    }

    /// Drops what the driver has asked for. No thread touches the disk for it afterwards.
    fn stop_workers(&mut self) {
        if let Some(workers) = self.workers.take() {
            workers.finish();
        }
        self.in_flight.clear();
    }
}

fn refuse(
    chain: &DescriptorChain,
    status: usize,
    index: usize,
    queues: &mut Queues,
) -> Result<(), QueueViolation> {
    let refused = u8::try_from(VIRTIO_BLK_S_IOERR).map_err(|_| QueueViolation)?;
    chain.write(queues.memory(), status, &[refused])?;
    queues.push(index, chain, 1)
}

impl Device for Volume {
    const NAME: &'static str = "volume";
    const ID: u32 = 2;
    /// One request queue.
    const QUEUES: &'static [QueueConfig] = &[QueueConfig { max_size: 256, interrupt_threshold: 0 }];
    /// A driver that does not flush would expect every write to be durable.
    const REQUIRED: u64 = 1 << VIRTIO_BLK_F_FLUSH;

    type State = formats::Volume;

    fn split(slot: &formats::Slot) -> Option<(&formats::Virtio, &formats::Volume)> {
        match slot {
            formats::Slot::Volume(transport, state) => Some((transport, state)),
            _ => None,
        }
    }

    fn from_state(state: &formats::Volume, resources: &Resources<'_>) -> Result<Self, DeviceError> {
        let Some(disk) = resources.volume.clone() else {
            let (name, target) = (state.name.clone(), state.target.clone());
            return Err(DeviceError::NoVolume { name, target });
        };
        Ok(Self {
            state: state.clone(),
            config: config(&disk),
            disk: Some(disk),
            is_pulled_out: false,
            events: resources.events.clone(),
            workers: None,
            last_ticket: 0,
            in_flight: BTreeMap::new(),
        })
    }

    fn check(&mut self, transport: &formats::Virtio, _: bool) -> Result<(), DeviceError> {
        self.is_pulled_out = transport.status != 0;
        Ok(())
    }

    fn state(&self, transport: formats::Virtio) -> formats::Slot {
        formats::Slot::Volume(transport, self.state.clone())
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_BLK_F_DISCARD
            | 1 << VIRTIO_BLK_F_WRITE_ZEROES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notify(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueViolation> {
        self.take(index, queues)
    }

    fn ready(&mut self, _: u64, _: Readiness, queues: &mut Queues) -> Result<(), QueueViolation> {
        self.hand_over(queues)?;
        if queues.has_next(0) { self.take(0, queues) } else { Ok(()) }
    }

    fn reset(&mut self) {
        self.stop_workers();
        self.is_pulled_out = false;
    }

    fn is_quiet(&mut self) -> bool {
        self.in_flight.is_empty()
    }

    fn hang_up(&mut self) {
        self.stop_workers();
        self.disk = None;
    }
}

impl Drop for Volume {
    /// No thread uses the disk any more once the machine is dropped.
    fn drop(&mut self) {
        self.stop_workers();
    }
}

fn config(disk: &VolumeDisk) -> [u8; CONFIG_SIZE] {
    let mut config = [0; CONFIG_SIZE];
    let mut put = |offset: usize, bytes: &[u8]| {
        config.iter_mut().skip(offset).zip(bytes).for_each(|(to, from)| *to = *from);
    };
    put(0, &(disk.size() / 512).to_le_bytes());
    put(12, &MAX_DATA_SEGMENTS.to_le_bytes());
    // The size of a block.
    put(20, &512_u32.to_le_bytes());
    // The longest discard, its most ranges, their alignment.
    put(36, &MAX_SECTORS.to_le_bytes());
    put(40, &MAX_SEGMENTS.to_le_bytes());
    put(44, &DISCARD_SECTORS.to_le_bytes());
    // The same of zeros, and that they may free room.
    put(48, &MAX_SECTORS.to_le_bytes());
    put(52, &MAX_SEGMENTS.to_le_bytes());
    put(56, &[1]);
    config
}
