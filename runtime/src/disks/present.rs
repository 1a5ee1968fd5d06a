//! Disks for the volumes of a configuration.

use std::sync::Arc;

use supermachine_formats::snapshot::Snapshot;
use supermachine_vmm::{VolumeDisk, volume_slots};

use super::Stored;
use crate::error::{HostError, InvalidInput};
use crate::volume::{VolumeError, check_target};
use crate::{Error, VmConfig};

/// Opens and locks the volumes that a configuration has, for a machine that starts from this snapshot.
pub(crate) fn start(config: &VmConfig, snapshot: &Snapshot) -> Result<Vec<Stored>, Error> {
    let volumes = config.volumes();
    let targets = volumes.iter().map(|(_, target)| check_target(target));
    let targets = targets.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if volumes.iter().zip(&targets).any(|((volume, _), at)| *at == "/" && volume.is_read_only()) {
        return Err(failed(VolumeError::ReadOnlyLayer));
    }
    for (count, target) in targets.iter().enumerate() {
        let is_there = |other: &&str| other == target;
        let folders = config.shares().iter().map(crate::HostFolder::target);
        if targets.iter().take(count).copied().chain(folders).any(|other| is_there(&other)) {
            return Err(InvalidInput::SharedTwice { target: (*target).to_owned() }.into());
        }
    }
    let slots = volume_slots(snapshot, &targets)?;
    let stored = |(((volume, _), target), slot): ((&(crate::Volume, String), &&str), u8)| {
        let (file, size) = volume.open().map_err(failed)?;
        Ok(Stored {
            slot,
            name: volume.label(),
            target: (*target).to_owned(),
            disk: Arc::new(VolumeDisk::new(file, size, volume.is_read_only())),
        })
    };
    volumes.iter().zip(&targets).zip(slots).map(stored).collect()
}

/// Refuses a pool whose machines would need one volume at once.
pub(crate) fn check_pool(config: &VmConfig) -> Result<(), Error> {
    let is_shared = |(volume, _): &&(crate::Volume, String)| !volume.is_read_only();
    let names = config.volumes().iter().filter(is_shared).filter_map(|(volume, _)| volume.name());
    match names.into_iter().next() {
        Some(name) => Err(InvalidInput::VolumeOfPool { name }.into()),
        None => Ok(()),
    }
}

fn failed(source: VolumeError) -> Error {
    HostError::Volume { source }.into()
}
