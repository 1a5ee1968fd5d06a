//! KVM's vCPUs on arm64.

use std::sync::Arc;

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_STOPPED, KVM_MP_STATE_SUSPENDED, kvm_mp_state,
    kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::arch::aarch64::{
    AFFINITY, CoreRegisters, Events, Power, SimdRegisters, SystemRegister, Timer, Timers,
    Vcpu as State,
};

use super::processor::shown;
use super::register::{self, general, simd, system};
use crate::arch::aarch64::registers::{MPIDR, is_state};
use crate::arch::{Clock, SavedVcpu};
use crate::backend::kvm::exits;
use crate::backend::kvm::signal::{self, ThreadKick};
use crate::backend::kvm::system::call;
use crate::backend::{Exit, HypervisorError, Kick, Vcpu};

/// The bits of a timer's control register that software writes: enable and mask.
const TIMER_CONTROL: u64 = 3;

/// Whether a state covers a whole processor.
fn is_whole(state: &State) -> bool {
    state.core.is_some()
        && state.simd.is_some()
        && state.timers.is_some()
        && state.events.is_some()
        && !state.system.is_empty()
}

#[derive(Debug)]
pub(super) struct KvmVcpu {
    fd: VcpuFd,
    /// The first vCPU sets the counter, which all share.
    is_first: bool,
    /// The identification registers that the guest sees.
    shown: Arc<[SystemRegister]>,
    /// The counter's value in the snapshot; `None` if it was never run.
    counter: Option<u64>,
    frequency_hz: u32,
}

impl KvmVcpu {
    pub(super) fn new(
        fd: VcpuFd,
        is_first: bool,
        shown: Arc<[SystemRegister]>,
        frequency_hz: u32,
    ) -> Result<Self, HypervisorError> {
        signal::prepare_thread(&fd)
            .map_err(|source| HypervisorError::Call { call: "KVM_SET_SIGNAL_MASK", source })?;
        Ok(Self { fd, is_first, shown, counter: None, frequency_hz })
    }

    /// The processor's state, without the interrupt controller's CPU interface.
    fn state(&self) -> Result<State, HypervisorError> {
        let fd = &self.fd;
        let events = fd.get_vcpu_events().map_err(call("KVM_GET_VCPU_EVENTS"))?.exception;
        Ok(State {
            mpidr: register::read(fd, system(MPIDR))? & AFFINITY,
            power: power(fd.get_mp_state().map_err(call("KVM_GET_MP_STATE"))?)?,
            core: Some(self.core()?),
            simd: Some(self.simd()?),
            system: self.system()?,
            timers: Some(Timers {
                virtual_timer: self.timer(register::VIRTUAL_CONTROL, register::VIRTUAL_COMPARE)?,
                physical_timer: self
                    .timer(register::PHYSICAL_CONTROL, register::PHYSICAL_COMPARE)?,
            }),
            cpu_interface: Vec::new(),
            events: Some(Events {
                serror_pending: events.serror_pending != 0,
                serror_syndrome: (events.serror_has_esr != 0).then_some(events.serror_esr),
            }),
        })
    }

    fn core(&self) -> Result<CoreRegisters, HypervisorError> {
        let read = |name| register::read(&self.fd, name);
        let mut x = [0; 31];
        for (index, value) in x.iter_mut().enumerate() {
            *value = read(general(index))?;
        }
        Ok(CoreRegisters {
            x,
            pc: read(register::PC)?,
            pstate: read(register::PSTATE)?,
            sp_el0: read(register::SP_EL0)?,
            sp_el1: read(register::SP_EL1)?,
            elr_el1: read(register::ELR_EL1)?,
            spsr_el1: read(register::SPSR_EL1)?,
        })
    }

    fn simd(&self) -> Result<SimdRegisters, HypervisorError> {
        let mut v = [[0; 2]; 32];
        for (index, value) in v.iter_mut().enumerate() {
            *value = register::read_pair(&self.fd, simd(index))?;
        }
        Ok(SimdRegisters {
            v,
            fpsr: register::read_half(&self.fd, register::FPSR)?,
            fpcr: register::read_half(&self.fd, register::FPCR)?,
        })
    }

    fn system(&self) -> Result<Vec<SystemRegister>, HypervisorError> {
        let listed = register::list(&self.fd)?.into_iter().filter_map(register::encoding_of);
        let mut wanted: Vec<u16> = listed.filter(|encoding| is_state(*encoding)).collect();
        wanted.sort_unstable();
        let read = |encoding| {
            let value = register::read(&self.fd, system(encoding))?;
            Ok(SystemRegister { encoding, value })
        };
        wanted.into_iter().map(read).collect()
    }

    fn timer(&self, control: u64, compare: u64) -> Result<Timer, HypervisorError> {
        Ok(Timer {
            control: (register::read(&self.fd, control)? & TIMER_CONTROL) as u32,
            compare: register::read(&self.fd, compare)?,
        })
    }

    /// Completes the last exit.
    fn complete_exit(&mut self) -> Result<(), HypervisorError> {
        self.fd.set_kvm_immediate_exit(1);
        let result = match self.fd.run() {
            Err(errno) if errno.errno() == libc::EINTR => Ok(()),
            Err(errno) => Err(call("KVM_RUN")(errno)),
            Ok(_) => Ok(()),
        };
        self.fd.set_kvm_immediate_exit(0);
        result
    }

    /// Shows the guest the processor that it saw, or shall see. Only before it runs.
    fn identify(&self, state: &State) -> Result<(), HypervisorError> {
        let own = register::read(&self.fd, system(MPIDR))? & AFFINITY;
        if own != state.mpidr {
            return Err(HypervisorError::Capability {
                capability: "a vCPU with the affinity of the snapshot's",
            });
        }
        for SystemRegister { encoding, value } in self.shown.iter() {
            // The kernel refuses to write most of them, even their own value if a guest runs.
            if register::read(&self.fd, system(*encoding))? != *value {
                register::write(&self.fd, system(*encoding), &value.to_le_bytes())?;
            }
        }
        Ok(())
    }

    fn load(&self, state: &State) -> Result<(), HypervisorError> {
        let fd = &self.fd;
        let write = |name, value: u64| register::write(fd, name, &value.to_le_bytes());
        for SystemRegister { encoding, value } in &state.system {
            write(system(*encoding), *value)?;
        }
        if let Some(core) = &state.core {
            for (index, value) in core.x.iter().enumerate() {
                write(general(index), *value)?;
            }
            write(register::PC, core.pc)?;
            write(register::PSTATE, core.pstate)?;
            write(register::SP_EL0, core.sp_el0)?;
            write(register::SP_EL1, core.sp_el1)?;
            write(register::ELR_EL1, core.elr_el1)?;
            write(register::SPSR_EL1, core.spsr_el1)?;
        }
        if let Some(simd_state) = &state.simd {
            for (index, [low, high]) in simd_state.v.iter().enumerate() {
                let value = u128::from(*high) << 64 | u128::from(*low);
                register::write(fd, simd(index), &value.to_le_bytes())?;
            }
            register::write(fd, register::FPSR, &simd_state.fpsr.to_le_bytes())?;
            register::write(fd, register::FPCR, &simd_state.fpcr.to_le_bytes())?;
        }
        if let Some(counter) = self.counter.filter(|_| self.is_first) {
            write(register::VIRTUAL_COUNTER, counter)?;
        }
        if let Some(Timers { virtual_timer, physical_timer }) = &state.timers {
            write(register::VIRTUAL_COMPARE, virtual_timer.compare)?;
            write(register::VIRTUAL_CONTROL, virtual_timer.control.into())?;
            write(register::PHYSICAL_COMPARE, physical_timer.compare)?;
            write(register::PHYSICAL_CONTROL, physical_timer.control.into())?;
        }
        if let Some(events) = &state.events {
            fd.set_vcpu_events(&kvm_events(events)).map_err(call("KVM_SET_VCPU_EVENTS"))?;
        }
        fd.set_mp_state(mp_state(state.power)).map_err(call("KVM_SET_MP_STATE"))
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Result<Exit<'_>, HypervisorError> {
        match self.fd.run() {
            Ok(exit) => Ok(exits::exit(exit)),
            // The kernel cannot decode an access to a device.
            Err(errno) if errno.errno() == libc::ENOSYS => Ok(Exit::Failed {
                reason: "access to a device that is not a load or store",
                code: 0,
            }),
            Err(errno) => exits::refused(errno),
        }
    }

    fn save(&mut self) -> Result<SavedVcpu, HypervisorError> {
        self.complete_exit()?;
        let value = register::read(&self.fd, register::VIRTUAL_COUNTER)?;
        Ok(SavedVcpu {
            state: self.state()?,
            // The snapshot knows its baseline.
            shown: shown(&self.fd, Baseline::Host)?,
            counter: (value, self.frequency_hz),
        })
    }

    fn restore(&mut self, state: &State, clock: &Clock) -> Result<(), HypervisorError> {
        self.counter = (clock.frequency_hz != 0).then_some(clock.value);
        self.identify(state)?;
        self.load(state)
    }

    fn reset(&mut self, state: &State, _: bool) -> Result<(), HypervisorError> {
        if !is_whole(state) {
            return Err(HypervisorError::PartialState);
        }
        self.complete_exit()?;
        self.load(state)
    }

    fn pre_fault(&mut self, _: u64, _: u64) -> bool {
        // No kernel offers it on this architecture.
        false
    }

    fn kicker(&self) -> Box<dyn Kick> {
        Box::new(ThreadKick::current())
    }
}

fn power(from: kvm_mp_state) -> Result<Power, HypervisorError> {
    match from.mp_state {
        KVM_MP_STATE_RUNNABLE => Ok(Power::On),
        KVM_MP_STATE_STOPPED => Ok(Power::Off),
        KVM_MP_STATE_SUSPENDED => Ok(Power::Suspended),
        _ => Err(HypervisorError::Capability { capability: "a known vCPU run state" }),
    }
}

fn mp_state(from: Power) -> kvm_mp_state {
    let mp_state = match from {
        Power::On => KVM_MP_STATE_RUNNABLE,
        Power::Off => KVM_MP_STATE_STOPPED,
        Power::Suspended => KVM_MP_STATE_SUSPENDED,
    };
    kvm_mp_state { mp_state }
}

fn kvm_events(from: &Events) -> kvm_vcpu_events {
    let mut events = kvm_vcpu_events::default();
    events.exception.serror_pending = from.serror_pending.into();
    events.exception.serror_has_esr = from.serror_syndrome.is_some().into();
    events.exception.serror_esr = from.serror_syndrome.unwrap_or(0);
    events
}
