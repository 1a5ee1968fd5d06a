//! What one kind of virtio device implements.

use std::fmt::Debug;
use std::fs::File;
use std::sync::Arc;

use supermachine_formats::snapshot::device as formats;

use super::error::DeviceError;
use super::event_loop::DeviceEvents;
use super::file_server::FileServer;
use super::frame_link::FrameLink;
use super::line::Line;
use super::queue::{QueueConfig, QueueViolation, Queues};
use super::volume_disk::VolumeDisk;
use crate::memory::GuestMemory;
use crate::os::Readiness;

/// One kind of virtio device, behind the registers that all kinds share. A device works on the
/// thread that has an event for it, under the one lock of its slot.
pub(crate) trait Device: Debug + Send + Sized + 'static {
    /// The kind's name in errors.
    const NAME: &'static str;
    /// The virtio device id.
    const ID: u32;
    /// The queues, in their order.
    const QUEUES: &'static [QueueConfig];
    /// The features that a driver must accept.
    const REQUIRED: u64 = 0;

    /// The device's own part of a slot's state.
    type State;

    /// The parts of a slot's state: the transport's and the device's. `None` for another kind.
    fn split(slot: &formats::Slot) -> Option<(&formats::Virtio, &Self::State)>;

    /// Restores the device.
    ///
    /// # Errors
    /// A field of the state is illegal, or the host lacks something that the device needs.
    fn from_state(state: &Self::State, resources: &Resources<'_>) -> Result<Self, DeviceError>;

    /// Registers the event sources that the device has from the start. Its slot is complete now.
    ///
    /// # Errors
    /// The host has no room for them.
    fn begin(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Checks the device against its transport: `is_running` if a driver runs it.
    ///
    /// # Errors
    /// The two do not fit.
    fn check(&mut self, transport: &formats::Virtio, is_running: bool) -> Result<(), DeviceError> {
        let _ = (transport, is_running);
        Ok(())
    }

    /// The slot's state around that of the transport.
    fn state(&self, transport: formats::Virtio) -> formats::Slot;

    /// The features offered, without those of the transport.
    fn features(&self) -> u64 {
        0
    }

    /// The configuration space, which is read-only. Bytes past its end read zero.
    fn config(&self) -> &[u8] {
        &[]
    }

    /// Serves the queue that the driver has notified.
    ///
    /// # Errors
    /// The driver broke the rules of the ring. The device stops until it is reset.
    fn notify(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueViolation>;

    /// Serves an event source that the device registered with `token`.
    ///
    /// # Errors
    /// Those of [`Device::notify`].
    fn ready(
        &mut self,
        token: u64,
        readiness: Readiness,
        queues: &mut Queues,
    ) -> Result<(), QueueViolation> {
        let _ = (token, readiness, queues);
        Ok(())
    }

    /// Drops everything that the driver made the device do.
    fn reset(&mut self) {}

    /// Whether the state holds everything that is in flight, so that it may be captured.
    fn is_quiet(&mut self) -> bool {
        true
    }

    /// Releases the host's callers: the guest will never run again.
    fn hang_up(&mut self) {}
}

/// A disk that a device can use.
#[derive(Debug)]
pub(crate) struct DiskFile {
    /// The disk's file; `None` if it is only mapped.
    pub(crate) file: Option<Arc<File>>,
    /// Its size in bytes.
    pub(crate) size: u64,
}

/// What a machine gives to a device.
#[derive(Debug, Clone)]
pub(crate) struct Resources<'a> {
    /// The guest's memory.
    pub(crate) memory: Arc<GuestMemory>,
    /// The slot's interrupt.
    pub(crate) line: Arc<dyn Line>,
    /// The snapshot's disks.
    pub(crate) disks: &'a [DiskFile],
    /// The other end of a network interface; `None` without a network.
    pub(crate) network: Option<FrameLink>,
    /// What answers for the folder of the host in this slot; `None` without one.
    pub(crate) share: Option<Arc<dyn FileServer>>,
    /// The disk behind a volume in this slot; `None` without one.
    pub(crate) volume: Option<Arc<VolumeDisk>>,
    /// Where the device registers its event sources.
    pub(crate) events: DeviceEvents,
}
