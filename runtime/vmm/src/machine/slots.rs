//! The slots of a machine that was never run, and what is put into empty slots.

use std::sync::Arc;

use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::device::{Share, Slot, Volume};

use crate::arch::layout::{
    FIRST_SHARE_SLOT, FIRST_VOLUME_SLOT, GUEST_CID, MAX_SHARES, MAX_VOLUMES, NET_SLOT, PMEM_START,
    PMEM_STRIDE, RNG_SLOT, SLOTS, VSOCK_SLOT,
};
use crate::devices::{
    DeviceError, FileServer, FrameLink, VolumeDisk, fresh_block, fresh_net, fresh_pmem, fresh_rng,
    fresh_share, fresh_volume, fresh_vsock,
};
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

/// A folder of the host that a machine gets.
#[derive(Debug, Clone)]
pub struct HostShare {
    /// Its slot, one of [`share_slots`].
    pub slot: u8,
    /// Where the guest mounts it.
    pub target: String,
    /// What answers for it.
    pub server: Arc<dyn FileServer>,
}

/// What stands behind the devices of a machine, on the host.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ends<'a> {
    /// The other end of the network interface.
    pub network: Option<&'a FrameLink>,
    /// The folders of the host.
    pub shares: &'a [HostShare],
    /// The volumes.
    pub volumes: &'a [HostVolume],
}

/// A volume that a machine gets.
#[derive(Debug, Clone)]
pub struct HostVolume {
    /// Its slot, one of [`volume_slots`].
    pub slot: u8,
    /// Its name; empty for a disk without one.
    pub name: String,
    /// Where the guest mounts it.
    pub target: String,
    /// The disk.
    pub disk: Arc<VolumeDisk>,
}

/// The slot for a folder at each of these paths of the guest: that of a folder which the snapshot has
/// there, or else an empty one.
///
/// # Errors
/// [`MachineError::TooManyShares`] if there are more folders than slots, and [`MachineError::Device`] if the
/// snapshot has a folder that is not among them.
pub fn share_slots(snapshot: &Snapshot, targets: &[&str]) -> Result<Vec<u8>, MachineError> {
    let given = |state: &Slot| match state {
        Slot::Share(_, Share { target, .. }) => {
            Some((target.clone(), DeviceError::NoFolder { target: target.clone() }))
        }
        _ => None,
    };
    let too_many = || MachineError::TooManyShares { most: MAX_SHARES };
    slots_for(snapshot, (FIRST_SHARE_SLOT, MAX_SHARES), targets, given, too_many)
}

/// The name by which the guest mounts the folder in a slot.
#[must_use]
pub fn share_tag(slot: u8) -> String {
    format!("supermachine-{slot}")
}

/// The snapshot with folders of the host in their slots. A folder of a snapshot that has it stays as it is.
///
/// # Errors
/// A slot holds another device.
pub(super) fn with_shares(
    snapshot: Arc<Snapshot>,
    shares: &[HostShare],
) -> Result<Arc<Snapshot>, MachineError> {
    let mut snapshot = snapshot;
    for HostShare { slot, target, .. } in shares {
        let is_one = (FIRST_SHARE_SLOT..FIRST_SHARE_SLOT + MAX_SHARES).contains(slot);
        match snapshot.slots.get(usize::from(*slot)).filter(|_| is_one) {
            Some(Slot::Share(_, share)) if share.target == *target => {}
            Some(Slot::Empty) => {
                snapshot = with_slot(snapshot, *slot, fresh_share(&share_tag(*slot), target));
            }
            _ => {
                let what = "another device in the slot of a folder";
                return Err(MachineError::Snapshot { what });
            }
        }
    }
    Ok(snapshot)
}

/// The slot for a volume at each of these paths of the guest: that of a volume which the snapshot has
/// there, or else an empty one.
///
/// # Errors
/// [`MachineError::TooManyVolumes`] if there are more volumes than slots, and [`MachineError::Device`] if the
/// snapshot has a volume at a path that is not among them.
pub fn volume_slots(snapshot: &Snapshot, targets: &[&str]) -> Result<Vec<u8>, MachineError> {
    let given = |state: &Slot| match state {
        Slot::Volume(_, Volume { name, target }) => {
            let (name, missing) = (name.clone(), target.clone());
            Some((target.clone(), DeviceError::NoVolume { name, target: missing }))
        }
        _ => None,
    };
    let too_many = || MachineError::TooManyVolumes { most: MAX_VOLUMES };
    slots_for(snapshot, (FIRST_VOLUME_SLOT, MAX_VOLUMES), targets, given, too_many)
}

/// The slot for a device at each of these paths of the guest, among `count` slots from `first`: that of the
/// device which the snapshot has there, or else an empty one. `given` tells a device's path, and the error if
/// nothing is given for it.
fn slots_for(
    snapshot: &Snapshot,
    (first, count): (u8, u8),
    targets: &[&str],
    given: impl Fn(&Slot) -> Option<(String, DeviceError)>,
    too_many: impl Fn() -> MachineError,
) -> Result<Vec<u8>, MachineError> {
    let end = usize::from(first) + usize::from(count);
    let states = snapshot.slots.get(usize::from(first)..end).unwrap_or_default();
    let mut devices = Vec::new();
    for (slot, state) in (first..).zip(states) {
        let Some((target, missing)) = given(state) else { continue };
        if !targets.contains(&&*target) {
            return Err(MachineError::Device { slot: slot.into(), source: missing });
        }
        devices.push((slot, target));
    }
    let empty = (first..).zip(states).filter(|(_, state)| **state == Slot::Empty);
    let mut empty = empty.map(|(slot, _)| slot);
    let slot_of = |wanted: &&str| {
        let found = devices.iter().find(|(_, target)| target == wanted).map(|(slot, _)| *slot);
        found.or_else(|| empty.next()).ok_or_else(&too_many)
    };
    targets.iter().map(slot_of).collect()
}

/// The snapshot with volumes in their slots. Another volume may stand where a snapshot has one.
///
/// # Errors
/// A slot holds another device.
pub(super) fn with_volumes(
    snapshot: Arc<Snapshot>,
    volumes: &[HostVolume],
) -> Result<Arc<Snapshot>, MachineError> {
    let mut snapshot = snapshot;
    for HostVolume { slot, name, target, .. } in volumes {
        let is_one = (FIRST_VOLUME_SLOT..FIRST_VOLUME_SLOT + MAX_VOLUMES).contains(slot);
        let found = snapshot.slots.get(usize::from(*slot)).filter(|_| is_one);
        let filled = match found {
            Some(Slot::Volume(_, volume)) if volume.name == *name && volume.target == *target => {
                continue;
            }
            Some(Slot::Volume(transport, volume)) if volume.target == *target => {
                let volume = Volume { name: name.clone(), target: target.clone() };
                Slot::Volume(transport.clone(), volume)
            }
            Some(Slot::Empty) => fresh_volume(name, target),
            _ => {
                let what = "another device in the slot of a volume";
                return Err(MachineError::Snapshot { what });
            }
        };
        snapshot = with_slot(snapshot, *slot, filled);
    }
    Ok(snapshot)
}

/// The snapshot with another device in a slot.
fn with_slot(snapshot: Arc<Snapshot>, slot: u8, device: Slot) -> Arc<Snapshot> {
    let mut snapshot = Arc::unwrap_or_clone(snapshot);
    if let Some(state) = snapshot.slots.get_mut(usize::from(slot)) {
        *state = device;
    }
    Arc::new(snapshot)
}

/// The snapshot with a network interface in its slot. The interface of a snapshot that has one stays
/// as it is.
///
/// # Errors
/// The slot holds another device.
pub(super) fn with_interface(snapshot: Arc<Snapshot>) -> Result<Arc<Snapshot>, MachineError> {
    match snapshot.slots.get(usize::from(NET_SLOT)) {
        Some(Slot::Net(..)) => Ok(snapshot),
        Some(Slot::Empty) => Ok(with_slot(snapshot, NET_SLOT, fresh_net())),
        _ => Err(MachineError::Snapshot { what: "another device in the slot of the network" }),
    }
}
