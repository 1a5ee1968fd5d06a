//! The memory that a guest can reach.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use vm_memory::MmapRegion;

use super::system::call;
use crate::backend::{Access, HypervisorError};

/// Keeps mapped memory alive until the VM is gone, if it is dropped after the VM's descriptor.
#[derive(Debug, Default)]
pub(super) struct Windows {
    /// Only ever added to.
    regions: Mutex<Vec<Arc<MmapRegion>>>,
}

impl Windows {
    /// Maps a region into a guest, as [`Vm::map`](crate::backend::Vm::map) says.
    pub(super) fn map(
        &self,
        vm: &VmFd,
        (index, guest_address): (u32, u64),
        region: Arc<MmapRegion>,
        access: Access,
    ) -> Result<(), HypervisorError> {
        let slot = kvm_userspace_memory_region {
            slot: index,
            flags: if access == Access::ReadOnly { KVM_MEM_READONLY } else { 0 },
            guest_phys_addr: guest_address,
            memory_size: region.size() as u64,
            userspace_addr: region.as_ptr() as u64,
        };
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the memory must stay mapped while the guest can reach it: `regions` keeps it
        // until after the VM's descriptor is closed, and `index` is used once (trait contract),
        // so no earlier window is replaced.
        unsafe { vm.set_user_memory_region(slot) }.map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
        regions.push(region);
        Ok(())
    }
}
