//! KVM's virtual machines on x86_64.
//!
//! Set-up order is VM, split interrupt chip, memory, vCPUs: with a split chip it is quick to
//! create and to tear down. The I/O interrupt controller is the machine's.

use std::sync::Arc;

use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_clock_data, kvm_enable_cap, kvm_msi};
use kvm_ioctls::{Cap, Kvm, VmFd};
use supermachine_formats::snapshot::arch::x86_64::IOAPIC_PINS;
use vm_memory::MmapRegion;

use super::cpuid;
use super::vcpu::KvmVcpu;
use crate::arch::host::processor_word;
use crate::arch::x86_64::baseline;
use crate::arch::{
    Clock, ClockReading, InterruptSink, Mismatch, Processor, SavedInterrupts, SavedVcpu, State,
};
use crate::backend::kvm::memory::Windows;
use crate::backend::kvm::system::{call, explain, open};
use crate::backend::{Access, HypervisorError, Vcpu, Vm};

/// Capabilities that every machine uses, with the names that errors print.
const REQUIRED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
];

/// Creates an empty VM with local interrupt controllers.
pub(crate) fn create_vm() -> Result<Arc<dyn Vm>, HypervisorError> {
    let kvm = open()?;
    let fd = kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
    let vm = KvmVm { kvm, fd, windows: Windows::default() };
    vm.split_irqchip()?;
    Ok(Arc::new(vm))
}

#[derive(Debug)]
struct KvmVm {
    kvm: Arc<Kvm>,
    fd: VmFd,
    // Dropped after the VM's descriptor.
    windows: Windows,
}

impl KvmVm {
    /// Local interrupt controllers in the kernel; must precede the first vCPU.
    fn split_irqchip(&self) -> Result<(), HypervisorError> {
        let mut cap = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
        cap.args[0] = IOAPIC_PINS as u64;
        self.fd
            .enable_cap(&cap)
            .map_err(call("KVM_CAP_SPLIT_IRQCHIP"))
            .map_err(|error| explain(&self.kvm, &REQUIRED, error))
    }
}

impl InterruptSink for KvmVm {
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
        self.windows.map(&self.fd, (index, guest_address), region, access)
    }

    fn check(&self, state: &State) -> Result<(), Mismatch> {
        baseline::check(state, processor_word)
    }

    fn complete(&self, state: &mut State) -> Result<(), HypervisorError> {
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

    fn restore_interrupts(&self, _: &State) -> Result<(), HypervisorError> {
        Ok(())
    }

    fn save_interrupts(&self) -> Result<SavedInterrupts, HypervisorError> {
        Ok(SavedInterrupts)
    }

    fn read_clock(&self) -> Result<ClockReading, HypervisorError> {
        let monotonic_ns = self.fd.get_clock().map_err(call("KVM_GET_CLOCK"))?.clock;
        Ok(ClockReading { monotonic_ns })
    }

    fn set_clock(&self, clock: &Clock) -> Result<(), HypervisorError> {
        let clock = kvm_clock_data { clock: clock.monotonic_ns, ..Default::default() };
        self.fd.set_clock(&clock).map_err(call("KVM_SET_CLOCK"))
    }
}
