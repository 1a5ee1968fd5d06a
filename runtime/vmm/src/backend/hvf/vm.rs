//! The framework's virtual machines.
//!
//! Set-up order is VM, interrupt controller, memory, vCPUs; then the controller's state is restored.
//! The vCPUs restore their CPU interfaces and timers after it, when they first run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use supermachine_formats::snapshot::arch::aarch64::{Processor, State};
use vm_memory::MmapRegion;

use super::gic::Controller;
use super::instance::Instance;
use super::presence::Peers;
use super::shared::Shared;
use super::timer::SharedOffset;
use super::vcpu::HvfVcpu;
use crate::arch::Mismatch;
use crate::arch::aarch64::gic::InterruptSink;
use crate::arch::aarch64::processor::{Host, check, complete, required};
use crate::arch::aarch64::{SavedInterrupts, SavedVcpu};
use crate::backend::sequence::Sequence;
use crate::backend::{Access, HypervisorError};

/// A VM with an interrupt controller.
#[derive(Debug)]
pub(super) struct HvfVm {
    shared: Arc<Shared>,
    host: Arc<Host>,
    /// The framework places a redistributor for each vCPU, and a guest finds its own by address, in a
    /// restored machine too.
    vcpus: Sequence,
    /// The interrupt controller has had a state. Relaxed: one thread restores and resets a machine.
    is_used: AtomicBool,
}

impl HvfVm {
    pub(super) fn new(host: Arc<Host>) -> Result<Self, HypervisorError> {
        let instance = Instance::new()?;
        let shared = Shared {
            controller: Controller::new()?,
            peers: Peers::default(),
            offset: SharedOffset::default(),
            frequency_hz: host.frequency_hz,
            shown: OnceLock::new(),
            instance,
        };
        let (vcpus, is_used) = (Sequence::default(), AtomicBool::new(false));
        Ok(Self { shared: Arc::new(shared), host, vcpus, is_used })
    }

    pub(super) fn map(
        &self,
        guest_address: u64,
        region: Arc<MmapRegion>,
        access: Access,
    ) -> Result<(), HypervisorError> {
        let whole = (0, region.size());
        self.shared.instance.map(guest_address, region, whole, access)
    }

    pub(super) fn check(&self, state: &State) -> Result<(), Mismatch> {
        check(state, &self.host)
    }

    pub(super) fn complete(&self, state: &mut State) {
        complete(state, &self.host);
        let _ = self.shared.shown.set(state.processor.registers.clone().into());
    }

    pub(super) fn required(&self, origin: &Processor, vcpus: &[SavedVcpu]) -> Processor {
        required(origin, vcpus.first().map(|vcpu| &vcpu.shown))
    }

    pub(super) fn create_vcpu(&self, index: u16) -> Result<HvfVcpu, HypervisorError> {
        let turn = self.vcpus.wait_for(index);
        let created = HvfVcpu::new(Arc::clone(&self.shared), index);
        drop(turn);
        created
    }

    pub(super) fn restore_interrupts(&self, state: &State) -> Result<(), HypervisorError> {
        if state.vcpus.len() != usize::from(self.vcpus.count()) {
            return Err(HypervisorError::Capability {
                capability: "as many vCPUs as the snapshot has",
            });
        }
        let is_used = self.is_used.swap(true, Ordering::Relaxed);
        self.shared.controller.restore(&state.gic, is_used)
    }

    pub(super) fn save_interrupts(&self) -> Result<SavedInterrupts, HypervisorError> {
        // The CPU interfaces are saved with the vCPUs, on their threads.
        Ok(SavedInterrupts { gic: self.shared.controller.save()?, cpu_interfaces: Vec::new() })
    }
}

impl InterruptSink for HvfVm {
    fn deliver(&self, interrupt: u32) {
        self.shared.controller.send(interrupt);
        self.shared.peers.wake();
    }
}

#[cfg(test)]
mod tests;
