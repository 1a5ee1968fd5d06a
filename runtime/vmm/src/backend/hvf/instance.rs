//! The process's VM in the framework, and the memory that its guest reaches.
//!
//! A process has at most one, which has no handle: every call concerns it. So the value that created
//! it destroys it, and only then lets go of the memory.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use applevisor_sys::{
    HV_MEMORY_EXEC, HV_MEMORY_READ, HV_MEMORY_WRITE, hv_vm_config_create, hv_vm_create,
    hv_vm_destroy, hv_vm_map,
};
use vm_memory::MmapRegion;

use super::error::{Misaligned, check, check_creation};
use super::framework::{AddressSpace, Object, PAGE};
use crate::arch::aarch64::layout::ADDRESS_BITS;
use crate::backend::{Access, HypervisorError};

/// The address space of a guest, in bits, if the host has as much.
const WANTED_BITS: u32 = 40;

/// The VM.
#[derive(Debug)]
pub(super) struct Instance {
    address_bits: u32,
    /// Memory that the guest reaches. Only ever added to; no lock is taken under this one.
    windows: Mutex<Vec<Arc<MmapRegion>>>,
}

impl Instance {
    /// Creates the process's VM.
    pub(super) fn new() -> Result<Self, HypervisorError> {
        let (config, address_bits) = match AddressSpace::find() {
            Some(functions) => {
                let (config, bits) = configure(&functions)?;
                (Some(config), bits)
            }
            // macOS 11 and 12 give every guest this.
            None => (None, ADDRESS_BITS),
        };
        let config = config.as_ref().map_or(std::ptr::null_mut(), Object::as_ptr);
        // SAFETY: the configuration is null, which stands for the default one, or alive.
        check_creation(unsafe { hv_vm_create(config) })?;
        Ok(Self { address_bits, windows: Mutex::default() })
    }

    /// Bits of a guest's physical address.
    pub(super) fn address_bits(&self) -> u32 {
        self.address_bits
    }

    /// Maps whole pages of a region into the guest, and keeps the region alive.
    pub(super) fn map(
        &self,
        guest_address: u64,
        region: Arc<MmapRegion>,
        (offset, size): (usize, usize),
        access: Access,
    ) -> Result<(), HypervisorError> {
        let in_region = offset.checked_add(size).is_some_and(|end| end <= region.size());
        let address = region.as_ptr().wrapping_add(offset);
        let (host_address, size_wanted) = (address as u64, size as u64);
        let is_aligned = [host_address, guest_address, size_wanted]
            .iter()
            .all(|number| number.is_multiple_of(PAGE));
        if size == 0 || !in_region || !is_aligned {
            let misaligned =
                Misaligned { host_address, guest_address, size: size_wanted, page: PAGE };
            let source = io::Error::new(io::ErrorKind::InvalidInput, misaligned);
            return Err(HypervisorError::Call { call: "hv_vm_map", source });
        }
        let flags = match access {
            Access::ReadWrite => HV_MEMORY_READ | HV_MEMORY_WRITE | HV_MEMORY_EXEC,
            Access::ReadOnly => HV_MEMORY_READ | HV_MEMORY_EXEC,
        };
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the memory must stay mapped while the guest can reach it: it lies in the region,
        // which `windows` keeps until after the VM is destroyed.
        check("hv_vm_map", unsafe { hv_vm_map(address.cast(), guest_address, size, flags) })?;
        windows.push(region);
        Ok(())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: the function has no preconditions. Every vCPU holds this value, so none exists.
        let result = unsafe { hv_vm_destroy() };
        if check("hv_vm_destroy", result).is_err() {
            // The VM may still reach its memory.
            let windows = self.windows.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::forget(std::mem::take(windows));
        }
    }
}

/// A configuration with an address space of this many bits.
fn configure(functions: &AddressSpace) -> Result<(Object, u32), HypervisorError> {
    let mut most = 0;
    // SAFETY: the result has room.
    let result = unsafe { (functions.max_size)(&raw mut most) };
    check("hv_vm_config_get_max_ipa_size", result)?;
    if most < ADDRESS_BITS {
        return Err(HypervisorError::Capability {
            capability: "as many bits of physical address as a guest has",
        });
    }
    let bits = most.min(WANTED_BITS);
    // SAFETY: the function has no preconditions.
    let config = unsafe { hv_vm_config_create() };
    // SAFETY: the object is new, and nothing else releases it.
    let config = unsafe { Object::take(config) }
        .ok_or(HypervisorError::Capability { capability: "a configuration of VMs" })?;
    // SAFETY: the configuration is alive.
    let result = unsafe { (functions.set_size)(config.as_ptr(), bits) };
    check("hv_vm_config_set_ipa_size", result)?;
    Ok((config, bits))
}

#[cfg(test)]
mod tests;
