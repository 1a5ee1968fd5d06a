//! The slots of a machine that was never run, and the state of a disk for an empty slot.

use std::sync::Arc;

use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::device::Slot;

use crate::arch::layout::{
    GUEST_CID, NET_SLOT, PMEM_START, PMEM_STRIDE, RNG_SLOT, SLOTS, VSOCK_SLOT,
};
use crate::devices::{fresh_block, fresh_net, fresh_pmem, fresh_rng, fresh_vsock};
use crate::error::MachineError;

/// The slots of a machine that was never run: sockets, random bytes, and the rest empty.
#[must_use]
pub fn boot_slots() -> Vec<Slot> {
    (0..SLOTS)
        .map(|slot| match slot {
            VSOCK_SLOT => fresh_vsock(GUEST_CID),
            RNG_SLOT => fresh_rng(),
            _ => Slot::Empty,
        })
        .collect()
}

/// A disk that is mapped into memory, as a device that the guest has not found yet. `disk` is its
/// index in the snapshot's list, `size` its size in bytes.
#[must_use]
pub fn mapped_disk(slot: u8, disk: u8, size: u64) -> Slot {
    fresh_pmem(disk, PMEM_START + u64::from(slot) * PMEM_STRIDE, size)
}

/// A disk behind a request queue, as a device that the guest has not found yet. `disk` is its
/// index in the snapshot's list.
#[must_use]
pub fn block_disk(disk: u8) -> Slot {
    fresh_block(disk)
}

/// The snapshot with a network interface in its slot. The interface of a snapshot that has one stays
/// as it is.
///
/// # Errors
/// The slot holds another device.
pub(super) fn with_interface(snapshot: Arc<Snapshot>) -> Result<Arc<Snapshot>, MachineError> {
    match snapshot.slots.get(usize::from(NET_SLOT)) {
        Some(Slot::Net(..)) => Ok(snapshot),
        Some(Slot::Empty) => {
            let mut snapshot = Arc::unwrap_or_clone(snapshot);
            if let Some(slot) = snapshot.slots.get_mut(usize::from(NET_SLOT)) {
                *slot = fresh_net();
            }
            Ok(Arc::new(snapshot))
        }
        _ => Err(MachineError::Snapshot { what: "another device in the slot of the network" }),
    }
}
