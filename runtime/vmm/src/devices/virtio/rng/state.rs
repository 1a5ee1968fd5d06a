//! The source's state: its transport's alone.

use std::fs::File;

use supermachine_formats::snapshot::device as formats;

use super::device::{QUEUES, Rng};
use crate::devices::virtio::DeviceError;
use crate::devices::virtio::mmio::fresh_transport;
use crate::devices::virtio::queue::Chain;

const SOURCE: &str = "/dev/urandom";

/// A random source that no driver has seen yet.
pub(crate) fn fresh_rng() -> formats::Slot {
    formats::Slot::Rng(fresh_transport(&QUEUES))
}

impl Rng {
    /// The device.
    ///
    /// # Errors
    /// The host's random source cannot be opened.
    pub(crate) fn from_state() -> Result<Self, DeviceError> {
        let source = File::open(SOURCE).map_err(|source| DeviceError::Host {
            device: "rng",
            operation: "open /dev/urandom",
            source,
        })?;
        Ok(Self { source, chain: Chain::default() })
    }
}
