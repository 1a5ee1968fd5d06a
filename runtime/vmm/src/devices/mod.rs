//! The devices of a machine.
//!
//! A [`Device`](device::Device) says what it needs: its queues, registers, event sources and state.
//! [`list`] names every device once. Capture, restore and reset walk the slots and name no device.
//! All devices share one [transport](mmio) and one [event loop](event_loop).
//!
//! Invariant: whatever the guest writes, a device stays within guest memory, does a bounded amount
//! of work for each access, and never panics.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod block;
mod bus;
mod device;
mod error;
mod event_loop;
mod file_server;
mod frame_link;
mod line;
mod list;
mod mmio;
mod net;
mod pmem;
mod queue;
mod rng;
mod serial;
mod share;
mod volume;
mod volume_disk;
mod vsock;
mod workers;

#[cfg(test)]
mod echo;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub(crate) use block::fresh_block;
pub(crate) use bus::{Bus, BusDevice};
pub(crate) use device::{DiskFile, Resources};
#[cfg(test)]
pub(crate) use echo::{echoes, fresh_echo};
pub use error::DeviceError;
pub(crate) use event_loop::{EventLoop, FreezeGuard};
pub use file_server::{FileServer, Known};
pub use frame_link::FrameLink;
pub(crate) use line::Line;
pub(crate) use list::slot_from_state;
pub(crate) use mmio::Slot;
pub(crate) use net::fresh_net;
pub(crate) use pmem::fresh_pmem;
pub(crate) use rng::fresh_rng;
pub(crate) use serial::{Console, SerialPort};
pub(crate) use share::fresh_share;
pub(crate) use volume::fresh_volume;
pub use volume_disk::VolumeDisk;
pub use vsock::Streams;
pub(crate) use vsock::fresh_vsock;
