//! A KVM virtual machine.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_MEM_READONLY, kvm_clock_data, kvm_enable_cap, kvm_msi,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VmFd};
use supermachine_formats::snapshot::HypervisorFamily;
use supermachine_formats::snapshot::arch::x86_64::IOAPIC_PINS;
use supermachine_formats::snapshot::arch::{ArchState, Processor};
use vm_memory::MmapRegion;

use super::system::{call, explain, open};
use super::x86_64::{KvmVcpu, cpuid};
use crate::arch::host::processor_word;
use crate::arch::{MessageSink, Mismatch, SavedVcpu, baseline};
use crate::backend::{Access, HypervisorError, Vcpu, Vm};

/// The family of hypervisors that this one belongs to.
pub(crate) fn family() -> Result<HypervisorFamily, HypervisorError> {
    Ok(HypervisorFamily::Kvm)
}

/// Creates an empty VM with local interrupt controllers.
pub(crate) fn create_vm() -> Result<Arc<dyn Vm>, HypervisorError> {
    let kvm = open()?;
    let fd = kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
    let vm = KvmVm { kvm, fd, regions: Mutex::default() };
    vm.split_irqchip()?;
    Ok(Arc::new(vm))
}

#[derive(Debug)]
struct KvmVm {
    kvm: Arc<Kvm>,
    fd: VmFd,
    /// Keeps mapped memory alive until the VM is gone; only ever added to.
    regions: Mutex<Vec<Arc<MmapRegion>>>,
}

impl KvmVm {
    /// Local interrupt controllers in the kernel; must precede the first vCPU.
    fn split_irqchip(&self) -> Result<(), HypervisorError> {
        let mut cap = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
        cap.args[0] = IOAPIC_PINS as u64;
        self.fd
            .enable_cap(&cap)
            .map_err(call("KVM_CAP_SPLIT_IRQCHIP"))
            .map_err(|error| explain(&self.kvm, error))
    }
}

impl MessageSink for KvmVm {
    fn deliver(&self, address: u64, data: u32) {
        let msi = kvm_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..Default::default()
        };
        // The kernel refuses only messages to processors that do not exist.
        let _ = self.fd.signal_msi(msi);
    }
}

impl Vm for KvmVm {
    fn map(
        &self,
        index: u32,
        guest_address: u64,
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
        unsafe { self.fd.set_user_memory_region(slot) }
            .map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
        regions.push(region);
        Ok(())
    }

    fn check(&self, state: &ArchState) -> Result<(), Mismatch> {
        baseline::check(state, processor_word)
    }

    fn complete(&self, state: &mut ArchState) -> Result<(), HypervisorError> {
        baseline::complete(state, |baseline, index, count| {
            cpuid::answers(&self.kvm, baseline, index, count)
        })
    }

    fn required(&self, origin: &Processor, vcpus: &[SavedVcpu]) -> Processor {
        baseline::required(origin, vcpus.iter().map(|vcpu| &vcpu.state), processor_word)
    }

    fn create_vcpu(&self, index: u16) -> Result<Box<dyn Vcpu>, HypervisorError> {
        let fd = self.fd.create_vcpu(index.into()).map_err(call("KVM_CREATE_VCPU"))?;
        Ok(Box::new(KvmVcpu::new(Arc::clone(&self.kvm), fd)?))
    }

    fn clock_ns(&self) -> Result<u64, HypervisorError> {
        Ok(self.fd.get_clock().map_err(call("KVM_GET_CLOCK"))?.clock)
    }

    fn set_clock_ns(&self, ns: u64) -> Result<(), HypervisorError> {
        let clock = kvm_clock_data { clock: ns, ..Default::default() };
        self.fd.set_clock(&clock).map_err(call("KVM_SET_CLOCK"))
    }
}
