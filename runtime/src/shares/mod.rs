//! The folders of the host that a machine has. What answers for them stays in this process, wherever the
//! machine is: a worker gets sockets, and no folder.

#[cfg(not(feature = "fs"))]
mod absent;
mod lanes;
#[cfg(feature = "fs")]
mod present;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use supermachine_formats::wire;
use supermachine_vmm::{FileServer, HostShare, share_tag};

#[cfg(not(feature = "fs"))]
pub(crate) use self::absent::start;
pub(crate) use self::lanes::{LANES, Lanes, serve};
#[cfg(feature = "fs")]
pub(crate) use self::present::start;

/// A folder that a machine gets.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    /// The slot of its device.
    pub(crate) slot: u8,
    /// Where the guest mounts it.
    pub(crate) target: String,
    /// Whether the guest may only read.
    pub(crate) is_read_only: bool,
    /// What answers for it.
    pub(crate) server: Arc<dyn FileServer>,
}

impl Shared {
    /// What the machine's device gets.
    pub(crate) fn end(&self) -> HostShare {
        let (slot, target) = (self.slot, self.target.clone());
        HostShare { slot, target, server: Arc::clone(&self.server) }
    }

    /// What the machine's agent sets up.
    pub(crate) fn setup(&self) -> wire::Share {
        let (slot, read_only) = (self.slot, self.is_read_only);
        let target = self.target.clone().into_bytes();
        wire::Share { slot, tag: share_tag(slot), target, read_only }
    }
}
