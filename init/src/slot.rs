//! The machine's slots: what was empty at boot may be filled.

use core::ffi::CStr;

use supermachine_formats::wire::Failure;

use crate::failure::failure;
use crate::sys::{Errno, fd, slot_device};

const BIND: &CStr = c"/sys/bus/platform/drivers/virtio-mmio/bind";
const UNBIND: &CStr = c"/sys/bus/platform/drivers/virtio-mmio/unbind";

/// Probes a slot again. A slot that is already bound is not an error.
pub(crate) fn probe(slot: u8) -> Result<(), Failure> {
    let name = slot_device(slot);
    match fd::set(BIND, name.as_bytes()) {
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(errno) => Err(failure("bind", name, errno)),
    }
}

/// Takes a slot's device from the kernel. A slot that is not bound is not an error.
pub(crate) fn release(slot: u8) -> Result<(), Failure> {
    let name = slot_device(slot);
    match fd::set(UNBIND, name.as_bytes()) {
        Ok(()) | Err(Errno::ENODEV) => Ok(()),
        Err(errno) => Err(failure("unbind", name, errno)),
    }
}
