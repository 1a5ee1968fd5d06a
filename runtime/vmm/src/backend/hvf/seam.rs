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

#[cfg(test)]
mod tests {
    use supermachine_formats::snapshot::arch::Baseline;
    use supermachine_formats::snapshot::arch::aarch64::{Gic, Power};

    use super::*;
    use crate::backend::hvf::stand_in;

    #[test]
    fn machine_is_restored_run_saved_and_reset_by_the_traits() {
        let _session = stand_in::begin();
        let vm = create_vm().unwrap();
        assert!(create_vm().is_err());
        let mut state = State {
            processor: Processor::of(Baseline::Armv8_2),
            vcpus: vec![VcpuState::after_reset(0, Power::On)],
            gic: Gic::reset(64),
            counter: Clock::after_reset(),
        };
        vm.check(&state).unwrap();
        vm.complete(&mut state).unwrap();
        vm.map(0, 0x4000_0000, stand_in::region(1), Access::ReadWrite).unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        vcpu.restore(&state.vcpus[0], &state.counter).unwrap();
        vm.restore_interrupts(&state).unwrap();
        vm.set_clock(&state.counter).unwrap();
        assert!(!vcpu.pre_fault(0x4000_0000, 0x4000));
        vcpu.kicker().kick();
        assert!(matches!(vcpu.run().unwrap(), Exit::Kicked));
        let saved = vcpu.save().unwrap();
        assert_eq!(saved.counter.1, counter_frequency());
        assert!(matches!(vm.save_interrupts().unwrap().gic, Gic::Opaque { .. }));
        vcpu.reset(&saved.state, true).unwrap();
        let required = vm.required(&state.processor, &[saved]);
        assert_eq!(required.registers, state.processor.registers);
    }
}
