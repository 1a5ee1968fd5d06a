//! KVM's virtual machines on arm64.
//!
//! Set-up order is VM, interrupt controller, memory, vCPUs; then the controller learns of the vCPUs
//! and its registers are restored.

use std::sync::{Arc, OnceLock};

use kvm_bindings::{KVM_ARM_IRQ_TYPE_SHIFT, KVM_ARM_IRQ_TYPE_SPI};
use kvm_ioctls::{Cap, Kvm, VmFd};
use supermachine_formats::snapshot::arch::aarch64::SystemRegister;
use vm_memory::MmapRegion;

use super::gic::Controller;
use super::processor;
use super::vcpu::KvmVcpu;
use crate::arch::aarch64::processor::{Host, check, complete, required};
use crate::arch::{
    Clock, ClockReading, InterruptSink, Mismatch, Processor, SavedInterrupts, SavedVcpu, State,
};
use crate::backend::kvm::memory::Windows;
use crate::backend::kvm::system::{call, explain, open};
use crate::backend::sequence::Sequence;
use crate::backend::{Access, HypervisorError, Vcpu, Vm};

/// Capabilities that every machine uses, with the names that errors print.
const REQUIRED: [(Cap, &str); 5] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::OneReg, "KVM_CAP_ONE_REG"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::ArmPsci02, "KVM_CAP_ARM_PSCI_0_2"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
];

/// Creates an empty VM with an interrupt controller.
pub(crate) fn create_vm() -> Result<Arc<dyn Vm>, HypervisorError> {
    let kvm = open()?;
    let host = processor::host(&kvm)?;
    let fd = processor::create_vm(&kvm)?;
    let controller = Controller::new(&fd).map_err(|error| explain(&kvm, &REQUIRED, error))?;
    let windows = Windows::default();
    let (shown, vcpus) = (OnceLock::new(), Sequence::default());
    Ok(Arc::new(KvmVm { controller, fd, windows, host, shown, vcpus, _kvm: kvm }))
}

#[derive(Debug)]
struct KvmVm {
    controller: Controller,
    fd: VmFd,
    // Dropped after the VM's descriptor.
    windows: Windows,
    host: Arc<Host>,
    /// The identification registers that the guest sees.
    shown: OnceLock<Arc<[SystemRegister]>>,
    /// The kernel places a redistributor for each vCPU in the order of their creation, and a guest
    /// finds its own by address.
    vcpus: Sequence,
    /// Keeps the descriptor that machines share.
    _kvm: Arc<Kvm>,
}

impl InterruptSink for KvmVm {
    fn deliver(&self, interrupt: u32) {
        let line = KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | interrupt;
        // An edge-triggered interrupt counts rising levels. The kernel refuses only interrupts that
        // do not exist.
        let _ = self.fd.set_irq_line(line, true);
        let _ = self.fd.set_irq_line(line, false);
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
        check(state, &self.host)
    }

    fn complete(&self, state: &mut State) -> Result<(), HypervisorError> {
        complete(state, &self.host);
        let _ = self.shown.set(state.processor.registers.clone().into());
        Ok(())
    }

    fn required(&self, origin: &Processor, vcpus: &[SavedVcpu]) -> Processor {
        required(origin, vcpus.first().map(|vcpu| &vcpu.shown))
    }

    fn create_vcpu(&self, index: u16) -> Result<Box<dyn Vcpu>, HypervisorError> {
        let turn = self.vcpus.wait_for(index);
        let created = self.fd.create_vcpu(index.into());
        drop(turn);
        let fd = created.map_err(call("KVM_CREATE_VCPU"))?;
        let init = processor::features(&self.fd, index == 0)?;
        fd.vcpu_init(&init).map_err(call("KVM_ARM_VCPU_INIT"))?;
        let shown = self.shown.get().cloned().unwrap_or_default();
        let is_first = index == 0;
        Ok(Box::new(KvmVcpu::new(fd, is_first, shown, self.host.frequency_hz)?))
    }

    fn restore_interrupts(&self, state: &State) -> Result<(), HypervisorError> {
        self.controller.restore(state)
    }

    fn save_interrupts(&self) -> Result<SavedInterrupts, HypervisorError> {
        self.controller.save(self.vcpus.count())
    }

    fn read_clock(&self) -> Result<ClockReading, HypervisorError> {
        Ok(ClockReading)
    }

    fn set_clock(&self, _: &Clock) -> Result<(), HypervisorError> {
        Ok(())
    }
}
