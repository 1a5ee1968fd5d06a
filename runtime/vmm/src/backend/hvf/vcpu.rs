//! A vCPU: runs the guest, serves its exits, and is saved and restored.
//!
//! Two things wait for the next run. A load or store of a device is completed then, or before a
//! save: what the device answered goes into its register once, whatever comes between. And the CPU
//! interface and the timers of a restored vCPU are set then, because the state of the interrupt
//! controller is restored after the vCPUs', and would undo an interrupt that a timer raises at once.

mod serve;

use std::sync::Arc;

use applevisor_sys::{hv_reg_t, hv_sys_reg_t};
use supermachine_formats::snapshot::arch::aarch64::{
    AFFINITY, Counter, Events, Power as SavedPower, SystemRegister, Timers, Vcpu as State,
};

use super::cpu::Cpu;
use super::exits::{self, Access};
use super::framework::host_counter;
use super::gic;
use super::presence::{Kicker, Power, Presence, Start, Wake};
use super::processor::{identify, shown};
use super::registers::{self, GENERAL, SystemRegisters};
use super::shared::Shared;
use super::timer;
use super::trapped::OS_LOCK;
use crate::arch::aarch64::SavedVcpu;
use crate::arch::aarch64::layout::affinity;
use crate::backend::{Exit, HypervisorError, Kick};

/// MPIDR_EL1's bit that is always one.
const MPIDR_ONE: u64 = 1 << 31;
/// Bytes of an instruction.
const INSTRUCTION: u64 = 4;

/// Timers that are off.
const NO_TIMER: timer::Registers = timer::Registers { control: 0, compare: 0 };

/// A vCPU.
#[derive(Debug)]
pub(super) struct HvfVcpu {
    cpu: Cpu,
    presence: Arc<Presence>,
    registers: SystemRegisters,
    /// What the guest's counter is behind the host's.
    offset: u64,
    /// The guest's counter in the snapshot.
    snapshot_count: u64,
    /// OSLSR_EL1's lock.
    is_locked: bool,
    /// The framework has masked the virtual timer, because it fired.
    is_timer_masked: bool,
    /// A load or store of a device that is not complete, and its data.
    unfinished: Option<Access>,
    data: [u8; 8],
    /// What to set before the next run.
    deferred: Option<Deferred>,
    /// Dropped after the vCPU.
    shared: Arc<Shared>,
}

/// Restored state that is set when the vCPU runs.
#[derive(Debug)]
struct Deferred {
    interface: Vec<SystemRegister>,
    timers: (timer::Registers, timer::Registers),
}

/// Why [`HvfVcpu::run`] returns.
enum Stop {
    Kicked,
    Access(Access),
    Shutdown,
    Failed { reason: &'static str, code: u64 },
}

impl HvfVcpu {
    /// Creates the vCPU with this index, for the calling thread.
    pub(super) fn new(shared: Arc<Shared>, index: u16) -> Result<Self, HypervisorError> {
        let cpu = Cpu::new()?;
        // Before anything that asks the interrupt controller about this vCPU.
        let affinity = affinity(index);
        cpu.set_system(hv_sys_reg_t::MPIDR_EL1, MPIDR_ONE | affinity)?;
        shared.controller.check_redistributor(&cpu)?;
        let registers = SystemRegisters::of(&cpu)?;
        let presence = Arc::new(Presence::new(affinity, cpu.id()));
        shared.peers.add(Arc::clone(&presence));
        Ok(Self {
            cpu,
            presence,
            registers,
            offset: 0,
            snapshot_count: 0,
            is_locked: false,
            is_timer_masked: false,
            unfinished: None,
            data: [0; 8],
            deferred: None,
            shared,
        })
    }

    pub(super) fn run(&mut self) -> Result<Exit<'_>, HypervisorError> {
        self.finish_access()?;
        self.finish_restore()?;
        let stop = loop {
            if let Some(stop) = self.step()? {
                break stop;
            }
        };
        Ok(match stop {
            Stop::Kicked => Exit::Kicked,
            Stop::Shutdown => Exit::Shutdown,
            Stop::Failed { reason, code } => Exit::Failed { reason, code },
            Stop::Access(access) => self.device_exit(access)?,
        })
    }

    pub(super) fn save(&mut self) -> Result<SavedVcpu, HypervisorError> {
        self.finish_access()?;
        self.finish_restore()?;
        if let Some(start) = self.presence.take_start() {
            self.begin(start)?;
        }
        let counter = host_counter().wrapping_sub(self.offset);
        Ok(SavedVcpu {
            state: self.state()?,
            shown: shown(&self.cpu)?,
            counter: (counter, self.shared.frequency_hz),
        })
    }

    pub(super) fn restore(
        &mut self,
        state: &State,
        clock: &Counter,
    ) -> Result<(), HypervisorError> {
        if self.presence.affinity() != state.mpidr & AFFINITY {
            return Err(HypervisorError::Capability {
                capability: "a vCPU with the affinity of the snapshot's",
            });
        }
        let shown = self.shared.shown.get().cloned().unwrap_or_default();
        identify(&self.cpu, &shown)?;
        self.snapshot_count = if clock.frequency_hz == 0 { 0 } else { clock.value };
        self.offset = self.shared.offset.join(host_counter(), self.snapshot_count);
        self.load(state)
    }

    pub(super) fn reset(&mut self, state: &State, leads: bool) -> Result<(), HypervisorError> {
        if !is_whole(state) {
            return Err(HypervisorError::PartialState);
        }
        self.unfinished = None;
        let (now, offset) = (host_counter(), &self.shared.offset);
        self.offset = if leads {
            offset.lead(now, self.snapshot_count)
        } else {
            offset.join(now, self.snapshot_count)
        };
        self.load(state)
    }

    pub(super) fn kicker(&self) -> Box<dyn Kick> {
        Box::new(Kicker(Arc::clone(&self.presence)))
    }

    /// The framework's name of the vCPU.
    #[cfg(test)]
    pub(super) fn id(&self) -> super::cpu::Id {
        self.cpu.id()
    }

    /// Runs the guest once, unless there is a reason not to. Returns `None` if it is to run again.
    fn step(&mut self) -> Result<Option<Stop>, HypervisorError> {
        if self.presence.take_kick() {
            return Ok(Some(Stop::Kicked));
        }
        if self.presence.power() != Power::On {
            match self.presence.wait_for_start() {
                Wake::Kicked => return Ok(Some(Stop::Kicked)),
                Wake::Started(start) => self.begin(start)?,
            }
        }
        self.unmask_timer()?;
        match self.cpu.run() {
            Ok(exit) => self.serve(exits::decode(&exit)),
            Err(failure) => {
                let reason = "Hypervisor.framework does not run the vCPU";
                Ok(Some(Stop::Failed { reason, code: failure.code.into() }))
            }
        }
    }

    /// Starts a load or store of a device.
    fn device_exit(&mut self, access: Access) -> Result<Exit<'_>, HypervisorError> {
        let Access { address, width, register, is_write, .. } = access;
        self.data = if is_write { self.general(register)?.to_le_bytes() } else { [0; 8] };
        self.unfinished = Some(access);
        let data = self.data.get_mut(..width).unwrap_or_default();
        Ok(if is_write { Exit::Write { address, data } } else { Exit::Read { address, data } })
    }

    /// Completes a load or store of a device.
    fn finish_access(&mut self) -> Result<(), HypervisorError> {
        let Some(access) = self.unfinished.take() else { return Ok(()) };
        if !access.is_write {
            self.set_general(access.register, access.loaded(self.data))?;
        }
        self.advance()
    }

    /// Sets what a restore left for the first run.
    fn finish_restore(&mut self) -> Result<(), HypervisorError> {
        let Some(Deferred { interface, timers }) = self.deferred.take() else { return Ok(()) };
        self.shared.controller.load_interface(&self.cpu, &interface)?;
        registers::load_timers(&self.cpu, timers)?;
        self.cpu.mask_timer(false)?;
        self.is_timer_masked = false;
        Ok(())
    }

    /// Begins where another vCPU said, as after a reset.
    fn begin(&mut self, start: Start) -> Result<(), HypervisorError> {
        let mut core = registers::core_after_reset();
        core.pc = start.entry;
        core.x[0] = start.context;
        self.registers.load(&self.cpu, &[])?;
        registers::load_core(&self.cpu, &core)?;
        registers::load_simd(&self.cpu, &registers::simd_after_reset())?;
        registers::load_timers(&self.cpu, (NO_TIMER, NO_TIMER))?;
        self.is_locked = false;
        Ok(())
    }

    /// Lets the virtual timer fire again, once the guest has served it.
    fn unmask_timer(&mut self) -> Result<(), HypervisorError> {
        if self.is_timer_masked && !registers::timers(&self.cpu)?.0.is_asserted() {
            self.cpu.mask_timer(false)?;
            self.is_timer_masked = false;
        }
        Ok(())
    }

    fn state(&self) -> Result<State, HypervisorError> {
        let cpu = &self.cpu;
        let mut system = self.registers.save(cpu)?;
        let lock = SystemRegister { encoding: OS_LOCK, value: self.is_locked.into() };
        let place = system.partition_point(|register| register.encoding < OS_LOCK);
        system.insert(place, lock);
        let (virtual_timer, physical_timer) = registers::timers(cpu)?;
        Ok(State {
            mpidr: self.presence.affinity(),
            power: match self.presence.power() {
                Power::On => SavedPower::On,
                Power::Off | Power::Starting(_) => SavedPower::Off,
            },
            core: Some(registers::save_core(cpu)?),
            simd: Some(registers::save_simd(cpu)?),
            system,
            timers: Some(timer::to_state(virtual_timer, physical_timer, self.offset)),
            cpu_interface: self.shared.controller.save_interface(cpu)?,
            // The framework injects none.
            events: Some(Events { serror_pending: false, serror_syndrome: None }),
        })
    }

    fn load(&mut self, state: &State) -> Result<(), HypervisorError> {
        let power = checked_power(state)?;
        gic::check_interface(&state.cpu_interface)?;
        let cpu = &self.cpu;
        let (lock, system): (Vec<SystemRegister>, Vec<SystemRegister>) =
            state.system.iter().copied().partition(|register| register.encoding == OS_LOCK);
        self.registers.load(cpu, &system)?;
        self.is_locked = lock.first().is_some_and(|lock| lock.value & 1 == 1);
        let core = state.core.clone().unwrap_or_else(registers::core_after_reset);
        registers::load_core(cpu, &core)?;
        let simd = state.simd.clone().unwrap_or_else(registers::simd_after_reset);
        registers::load_simd(cpu, &simd)?;
        cpu.set_counter_offset(self.offset)?;
        // Off until the state of the interrupt controller is there.
        registers::load_timers(cpu, (NO_TIMER, NO_TIMER))?;
        let of = |timers: &Timers| timer::from_state(timers, self.offset);
        self.deferred = Some(Deferred {
            interface: state.cpu_interface.clone(),
            timers: state.timers.as_ref().map_or((NO_TIMER, NO_TIMER), of),
        });
        self.presence.set_power(power);
        Ok(())
    }

    /// A general register; 31 is zero.
    fn general(&self, register: u8) -> Result<u64, HypervisorError> {
        let register = GENERAL.get(usize::from(register));
        register.map_or(Ok(0), |register| self.cpu.register(*register))
    }

    /// Sets a general register; 31 loses the value.
    fn set_general(&self, register: u8, value: u64) -> Result<(), HypervisorError> {
        let register = GENERAL.get(usize::from(register));
        register.map_or(Ok(()), |register| self.cpu.set_register(*register, value))
    }

    /// Advances to the next instruction.
    fn advance(&self) -> Result<(), HypervisorError> {
        let pc = self.cpu.register(hv_reg_t::PC)?;
        self.cpu.set_register(hv_reg_t::PC, pc.wrapping_add(INSTRUCTION))
    }
}

impl Drop for HvfVcpu {
    fn drop(&mut self) {
        self.presence.leave();
    }
}

/// Whether a state covers a whole processor.
fn is_whole(state: &State) -> bool {
    state.core.is_some()
        && state.simd.is_some()
        && state.timers.is_some()
        && state.events.is_some()
        && !state.system.is_empty()
        && !state.cpu_interface.is_empty()
}

/// The power of a saved vCPU, unless it is in a state that the framework cannot restore.
fn checked_power(state: &State) -> Result<Power, HypervisorError> {
    if state.events.as_ref().is_some_and(|events| events.serror_pending) {
        return Err(HypervisorError::Capability { capability: "a way to inject system errors" });
    }
    match state.power {
        SavedPower::On => Ok(Power::On),
        SavedPower::Off => Ok(Power::Off),
        SavedPower::Suspended => {
            Err(HypervisorError::Capability { capability: "vCPUs that are suspended" })
        }
    }
}

#[cfg(test)]
mod tests;
