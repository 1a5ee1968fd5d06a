//! What stands in the slots of a machine that begins, and how an empty slot is filled.

use supermachine_formats::snapshot::device::Slot;

use super::devices::virtio::{fresh_block, fresh_pmem, fresh_rng, fresh_vsock};
use super::layout::{GUEST_CID, PMEM_START, PMEM_STRIDE, RNG_SLOT, SLOTS, VSOCK_SLOT};

/// The slots of a machine that was never run: sockets, randomness, and the rest empty.
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

/// A disk that is mapped into memory, as a device that the guest has not seen yet.
/// `disk` is its place in the snapshot's list, `size` its bytes.
#[must_use]
pub fn mapped_disk(slot: u8, disk: u8, size: u64) -> Slot {
    fresh_pmem(disk, PMEM_START + u64::from(slot) * PMEM_STRIDE, size)
}

/// A disk behind a request queue, as a device that the guest has not seen yet. `disk` is its
/// place in the snapshot's list.
#[must_use]
pub fn block_disk(disk: u8) -> Slot {
    fresh_block(disk)
}
