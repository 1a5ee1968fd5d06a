//! The list of devices.

use std::sync::Arc;

use supermachine_formats::snapshot::device as formats;

use super::block::Block;
use super::device::{Device, Resources};
#[cfg(test)]
use super::echo::Echo;
use super::error::DeviceError;
use super::mmio::{EmptySlot, Mmio, Slot};
use super::net::Net;
use super::pmem::Pmem;
use super::rng::Rng;
use super::share::Share;
use super::volume::Volume;
use super::vsock::Sockets;

/// Restores the device of a slot; `None` if the slot is of another kind.
type Restore = fn(&formats::Slot, &Resources<'_>) -> Option<Result<Slot, DeviceError>>;

/// Every kind of device, one line each.
const DEVICES: &[Restore] = &[
    #[cfg(test)]
    restore::<Echo>,
    restore::<Sockets>,
    restore::<Rng>,
    restore::<Pmem>,
    restore::<Block>,
    restore::<Net>,
    restore::<Share>,
    restore::<Volume>,
];

/// Restores a slot.
///
/// # Errors
/// A field of the state is illegal, or the host lacks something that the device needs.
pub(crate) fn slot_from_state(
    state: &formats::Slot,
    resources: &Resources<'_>,
) -> Result<Slot, DeviceError> {
    if *state == formats::Slot::Empty {
        return Ok(Arc::new(EmptySlot));
    }
    let found = DEVICES.iter().find_map(|restore| restore(state, resources));
    found.unwrap_or(Err(DeviceError::UnknownKind))
}

fn restore<D: Device>(
    state: &formats::Slot,
    resources: &Resources<'_>,
) -> Option<Result<Slot, DeviceError>> {
    D::split(state)?;
    Some(Mmio::<D>::from_state(state, resources).map(|slot| slot as Slot))
}
