//! The volumes and disks that a machine has. Their files are opened and locked in this process, wherever the
//! machine is: a worker gets descriptors, and no path.

#[cfg(not(feature = "fs"))]
mod absent;
#[cfg(feature = "fs")]
mod present;

use std::sync::Arc;

use supermachine_formats::wire;
use supermachine_vmm::{HostVolume, VolumeDisk};

#[cfg(not(feature = "fs"))]
pub(crate) use self::absent::{check_pool, start};
#[cfg(feature = "fs")]
pub(crate) use self::present::{check_pool, start};

/// A disk that a machine gets.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// The slot of its device.
    pub(crate) slot: u8,
    /// The volume's name; empty for a disk without one.
    pub(crate) name: String,
    /// Where the guest mounts it.
    pub(crate) target: String,
    /// The disk, whose file is locked.
    pub(crate) disk: Arc<VolumeDisk>,
}

impl Stored {
    /// What the machine's device gets.
    pub(crate) fn end(&self) -> HostVolume {
        let (slot, name, target) = (self.slot, self.name.clone(), self.target.clone());
        HostVolume { slot, name, target, disk: Arc::clone(&self.disk) }
    }

    /// What the machine's agent sets up.
    pub(crate) fn setup(&self) -> wire::Volume {
        let target = self.target.clone().into_bytes();
        wire::Volume { slot: self.slot, target, read_only: self.disk.is_read_only() }
    }
}
