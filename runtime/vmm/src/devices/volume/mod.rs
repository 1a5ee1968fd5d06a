//! A writable disk behind a request queue (virtio device 2), which each start gives to the machine.
//!
//! The device moves requests between the driver's buffers and the threads that wait for the disk's
//! file. A [`VolumeDisk`](super::VolumeDisk) serves them. No request reaches beyond the disk, whatever the driver sends.

mod device;
#[cfg(test)]
mod tests;

pub(crate) use device::{Volume, fresh_volume};
