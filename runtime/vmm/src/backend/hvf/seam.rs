//! The backend as machines see it: the traits of [`hypervisor`](crate::backend), which speak of the
//! host's own architecture.

use std::sync::{Arc, Mutex, PoisonError};

use supermachine_formats::snapshot::HypervisorFamily;
use vm_memory::MmapRegion;

use super::processor::ask;
use super::vcpu::HvfVcpu;
use super::vm::HvfVm;
use crate::arch::aarch64::processor::Host;
use crate::arch::host::counter_frequency;
use crate::arch::{
    Clock, ClockReading, Mismatch, Processor, SavedInterrupts, SavedVcpu, State, VcpuState,
};
use crate::backend::{Access, Exit, HypervisorError, Kick, Vcpu, Vm};
use crate::os::DeviceFile;

/// What this host shows to guests. The lock guards the answer, and is held while the host is asked,
/// in a VM that must not meet another one.
static HOST: Mutex<Option<Arc<Host>>> = Mutex::new(None);

/// Whether a process can have one machine only.
pub const ONE_MACHINE_PER_PROCESS: bool = true;

/// The family of hypervisors that this one belongs to.
pub(crate) fn family() -> Result<HypervisorFamily, HypervisorError> {
    Ok(HypervisorFamily::Hvf)
}

/// Creates an empty VM with an interrupt controller. A process has at most one.
pub(crate) fn create_vm() -> Result<Arc<dyn Vm>, HypervisorError> {
    let mut known = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    let host = match known.as_ref() {
        Some(host) => Arc::clone(host),
        None => Arc::clone(known.insert(Arc::new(ask(counter_frequency())?))),
    };
    Ok(Arc::new(HvfVm::new(host)?))
}

/// The framework has no file that a process could open ahead.
pub(crate) fn device() -> Option<&'static DeviceFile> {
    None
}

impl Vm for HvfVm {
    fn map(
        &self,
        _: u32,
        guest_address: u64,
        region: Arc<MmapRegion>,
        access: Access,
    ) -> Result<(), HypervisorError> {
        Self::map(self, guest_address, region, access)
    }

    fn check(&self, state: &State) -> Result<(), Mismatch> {
        Self::check(self, state)
    }

    fn complete(&self, state: &mut State) -> Result<(), HypervisorError> {
        Self::complete(self, state);
        Ok(())
    }

    fn required(&self, origin: &Processor, vcpus: &[SavedVcpu]) -> Processor {
        Self::required(self, origin, vcpus)
    }

    fn create_vcpu(&self, index: u16) -> Result<Box<dyn Vcpu>, HypervisorError> {
        Ok(Box::new(Self::create_vcpu(self, index)?))
    }

    fn restore_interrupts(&self, state: &State) -> Result<(), HypervisorError> {
        Self::restore_interrupts(self, state)
    }

    fn save_interrupts(&self) -> Result<SavedInterrupts, HypervisorError> {
        Self::save_interrupts(self)
    }

    fn read_clock(&self) -> Result<ClockReading, HypervisorError> {
        Ok(ClockReading)
    }

    fn set_clock(&self, _: &Clock) -> Result<(), HypervisorError> {
        Ok(())
    }
}

impl Vcpu for HvfVcpu {
    fn run(&mut self) -> Result<Exit<'_>, HypervisorError> {
        Self::run(self)
    }

    fn save(&mut self) -> Result<SavedVcpu, HypervisorError> {
        Self::save(self)
    }

    fn restore(&mut self, state: &VcpuState, clock: &Clock) -> Result<(), HypervisorError> {
        Self::restore(self, state, clock)
    }

    fn reset(&mut self, state: &VcpuState, leads: bool) -> Result<(), HypervisorError> {
        Self::reset(self, state, leads)
    }

    fn pre_fault(&mut self, _: u64, _: u64) -> bool {
        // The framework has no such call.
        false
    }

    fn kicker(&self) -> Box<dyn Kick> {
        Self::kicker(self)
    }
}
