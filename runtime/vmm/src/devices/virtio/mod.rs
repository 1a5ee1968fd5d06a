//! Virtio devices behind memory-mapped slots.
//!
//! Owns what every device shares: the [`Slot`] that the bus talks to, the [`Device`] trait, and
//! the way from a snapshot's state to a running device and back. The registers are in [`mmio`],
//! the rings in [`queue`], each device in its folder. Mapping a disk's window into the guest and
//! delivering interrupts belong to the machine.
//!
//! Invariant: whatever the guest writes, a device stays within guest memory, does bounded work
//! for each access, and never panics. A device works on the thread that has the event, under its
//! slot's one lock.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

pub(crate) mod block;
pub(crate) mod mmio;
pub(crate) mod pmem;
pub(crate) mod queue;
pub(crate) mod rng;
pub(crate) mod vsock;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::sync::Arc;

use supermachine_formats::snapshot::device as formats;

pub(crate) use self::block::fresh_block;
use self::mmio::{Mmio, Window};
pub(crate) use self::pmem::fresh_pmem;
use self::queue::{Broken, QueuePlan, Queues};
pub(crate) use self::rng::fresh_rng;
pub use self::vsock::Vsock;
pub(crate) use self::vsock::fresh_vsock;
use crate::line::Line;

const RNG: &str = "rng";
const PMEM: &str = "pmem";
const BLOCK: &str = "block";

/// The guest's memory, as devices see it.
pub(crate) type Memory = vm_memory::GuestMemoryMmap<()>;

/// What one kind of virtio device does behind the registers that all share.
pub(crate) trait Device: Debug + Send {
    /// The virtio device id.
    fn id(&self) -> u32;

    /// The features offered, without those of the transport.
    fn features(&self) -> u64;

    /// The queues, in their order.
    fn queues(&self) -> &'static [QueuePlan];

    /// The configuration space. What lies behind it reads zero; no device has a writable one.
    fn config(&self) -> &[u8];

    /// Serves the queue that the driver has notified.
    ///
    /// # Errors
    /// The driver broke the rules of the ring; the device stops until it is reset.
    fn notify(&mut self, index: usize, queues: &mut Queues) -> Result<(), Broken>;

    /// Forgets everything that the driver made it do.
    fn reset(&mut self);

    /// The device's state, around that of its transport.
    fn state(&self, transport: formats::Virtio) -> formats::Slot;
}

/// A disk that a device may be made from.
#[derive(Debug)]
pub(crate) struct DiskFile {
    /// The file that holds it; none if it is only mapped.
    pub(crate) file: Option<Arc<File>>,
    /// Its size in bytes.
    pub(crate) size: u64,
}

/// What a machine gives to its devices.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    /// The guest's memory.
    pub(crate) memory: Arc<Memory>,
    /// The slot's interrupt.
    pub(crate) line: Arc<dyn Line>,
    /// The snapshot's disks.
    pub(crate) disks: &'a [DiskFile],
}

/// A state that no device of this machine can be in, or a device that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The slot's kind is not one that this version knows.
    #[error("virtio slot is of an unknown kind")]
    UnknownKind,
    /// A field's value is out of its bounds.
    #[error("virtio {device} state: {field} is {found:#x}")]
    Field {
        /// The kind of device.
        device: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// A queue's field is out of its bounds.
    #[error("virtio {device} state: {field} of queue {queue} is {found:#x}")]
    QueueField {
        /// The kind of device.
        device: &'static str,
        /// The queue's number.
        queue: usize,
        /// The field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// The host refused what the device needs.
    #[error("cannot {operation} for virtio {device}")]
    Host {
        /// The kind of device.
        device: &'static str,
        /// What was tried.
        operation: &'static str,
        /// The host's answer.
        source: io::Error,
    },
}

/// One virtio-mmio slot: an address window with a device behind it, or empty.
#[derive(Debug, Clone)]
pub(crate) enum Slot {
    Empty,
    Vsock(Vsock),
    Rng(Arc<Mmio<rng::Rng>>),
    Pmem(Arc<Mmio<pmem::Pmem>>),
    Block(Arc<Mmio<block::Block>>),
}

impl Slot {
    /// Makes the device that a state describes.
    ///
    /// # Errors
    /// A field of the state is illegal, or the host lacks what the device needs.
    pub(crate) fn from_state(state: &formats::Slot, parts: Parts<'_>) -> Result<Self, DeviceError> {
        let Parts { memory, line, disks } = parts;
        Ok(match state {
            formats::Slot::Empty => Self::Empty,
            formats::Slot::Vsock(transport, state) => {
                Self::Vsock(Vsock::from_state(transport, state, memory, line)?)
            }
            formats::Slot::Rng(transport) => {
                let device = rng::Rng::from_state()?;
                Self::Rng(Arc::new(Mmio::from_state(RNG, transport, device, memory, line)?))
            }
            formats::Slot::Pmem(transport, state) => {
                let device = pmem::Pmem::from_state(state, disks)?;
                Self::Pmem(Arc::new(Mmio::from_state(PMEM, transport, device, memory, line)?))
            }
            formats::Slot::Block(transport, state) => {
                let device = block::Block::from_state(state, disks)?;
                Self::Block(Arc::new(Mmio::from_state(BLOCK, transport, device, memory, line)?))
            }
            _ => return Err(DeviceError::UnknownKind),
        })
    }

    /// Puts the device that a state describes in the place of the one that is here, of which
    /// nothing stays. The vCPUs must be paused, and the socket device held.
    ///
    /// # Errors
    /// The state is of another kind of device or illegal, or the host lacks what the device
    /// needs.
    pub(crate) fn reset(&self, state: &formats::Slot, parts: Parts<'_>) -> Result<(), DeviceError> {
        let Parts { memory, line, disks } = parts;
        match (self, state) {
            (Self::Empty, formats::Slot::Empty) => Ok(()),
            (Self::Vsock(vsock), formats::Slot::Vsock(transport, state)) => {
                vsock.reset(transport, state, memory, line)
            }
            (Self::Rng(window), formats::Slot::Rng(transport)) => {
                window.reset(RNG, transport, rng::Rng::from_state()?, memory, line)
            }
            (Self::Pmem(window), formats::Slot::Pmem(transport, state)) => {
                let device = pmem::Pmem::from_state(state, disks)?;
                window.reset(PMEM, transport, device, memory, line)
            }
            (Self::Block(window), formats::Slot::Block(transport, state)) => {
                let device = block::Block::from_state(state, disks)?;
                window.reset(BLOCK, transport, device, memory, line)
            }
            _ => Err(DeviceError::UnknownKind),
        }
    }

    /// The state to go on from. The vCPUs must be paused.
    pub(crate) fn state(&self) -> formats::Slot {
        self.window().map_or(formats::Slot::Empty, Window::state)
    }

    /// The socket device, if that is what stands here.
    pub(crate) fn vsock(&self) -> Option<&Vsock> {
        match self {
            Self::Vsock(vsock) => Some(vsock),
            _ => None,
        }
    }

    /// Answers a guest's read at an offset of the window. Undefined bytes read zero.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        match self.window() {
            Some(window) => window.read(offset, data),
            None => mmio::read_empty(offset, data),
        }
    }

    /// Takes a guest's write at an offset of the window. What is not defined is ignored.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        if let Some(window) = self.window() {
            window.write(offset, data);
        }
    }

    fn window(&self) -> Option<&dyn Window> {
        Some(match self {
            Self::Empty => return None,
            Self::Vsock(vsock) => vsock.window(),
            Self::Rng(window) => &**window,
            Self::Pmem(window) => &**window,
            Self::Block(window) => &**window,
        })
    }
}
