//! KVM's vCPUs on x86_64.

use std::io;
use std::sync::Arc;

use kvm_bindings::kvm_pre_fault_memory;
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

use super::{convert, cpuid, msr};
use crate::arch::x86_64::layout::port_address;
use crate::arch::{Clock, SavedVcpu, VcpuState as State};
use crate::backend::kvm::exits;
use crate::backend::kvm::signal::{self, ThreadKick};
use crate::backend::kvm::system::call;
use crate::backend::{Exit, HypervisorError, Kick, Vcpu};

ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, kvm_bindings::KVMIO, 0xd5, kvm_pre_fault_memory);

/// How far two time-stamp counters may differ, in parts per million, and still count as the
/// same rate: the kernel's own clock discipline corrects that much.
const TSC_TOLERANCE_PPM: u64 = 250;

/// The parts of the extended state that a guest without XSAVE has: x87 and SSE.
const LEGACY_STATE: u64 = 3;

/// Whether a state covers a whole processor.
fn is_whole(state: &State) -> bool {
    state.registers.is_some()
        && state.special.is_some()
        && state.lapic.is_some()
        && state.xsave.is_some()
        && state.debug.is_some()
        && state.events.is_some()
        && !state.msrs.is_empty()
}

#[derive(Debug)]
pub(super) struct KvmVcpu {
    kvm: Arc<Kvm>,
    fd: VcpuFd,
}

impl KvmVcpu {
    pub(super) fn new(kvm: Arc<Kvm>, fd: VcpuFd) -> Result<Self, HypervisorError> {
        signal::prepare_thread(&fd)
            .map_err(|source| HypervisorError::Call { call: "KVM_SET_SIGNAL_MASK", source })?;
        Ok(Self { kvm, fd })
    }

    /// The processor's state.
    fn state(&self) -> Result<State, HypervisorError> {
        let fd = &self.fd;
        // The run state first: reading it makes the kernel process pending INIT and start-up
        // messages, which changes registers.
        let run_state = convert::run_state(fd.get_mp_state().map_err(call("KVM_GET_MP_STATE"))?)?;
        let cpuid = cpuid::read(fd)?;
        let special = fd.get_sregs().map_err(call("KVM_GET_SREGS"))?;
        let xsave = fd.get_xsave().map_err(call("KVM_GET_XSAVE"))?;
        let parts = cpuid::extended_state(&cpuid);
        // A guest without XSAVE has no XCR0, and a host without it would refuse one.
        let xcr0 = match parts {
            Some(_) => Some(convert::xcr0(&fd.get_xcrs().map_err(call("KVM_GET_XCRS"))?)),
            None => None,
        };
        Ok(State {
            registers: Some(convert::registers(&fd.get_regs().map_err(call("KVM_GET_REGS"))?)),
            special: Some(convert::special(&special)),
            run_state,
            lapic: Some(convert::lapic(&fd.get_lapic().map_err(call("KVM_GET_LAPIC"))?)),
            xsave: Some(convert::xsave(&xsave, parts.unwrap_or(LEGACY_STATE))),
            xcr0,
            debug: Some(convert::debug(&fd.get_debug_regs().map_err(call("KVM_GET_DEBUGREGS"))?)),
            events: Some(convert::events(
                &fd.get_vcpu_events().map_err(call("KVM_GET_VCPU_EVENTS"))?,
            )),
            msrs: msr::read(fd, &cpuid)?,
            cpuid,
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

    /// The rate of the time-stamp counter in kHz.
    fn tsc_khz(&self) -> Result<u32, HypervisorError> {
        self.fd.get_tsc_khz().map_err(call("KVM_GET_TSC_KHZ"))
    }

    /// Scales the guest's time-stamp counter to the rate that it was saved with; 0 keeps the host's.
    fn scale_tsc(&self, wanted: u32) -> Result<(), HypervisorError> {
        let own = self.tsc_khz()?;
        let difference = u64::from(own.abs_diff(wanted)) * 1_000_000;
        if wanted == 0 || difference <= u64::from(wanted) * TSC_TOLERANCE_PPM {
            return Ok(());
        }
        // Without scaling, the kernel accepts some rates nevertheless and lets the counter jump.
        if !self.kvm.check_extension(Cap::TscControl) {
            return Err(HypervisorError::TscRate { snapshot_khz: wanted, host_khz: own });
        }
        self.fd.set_tsc_khz(wanted).map_err(call("KVM_SET_TSC_KHZ"))
    }

    /// Restores everything but CPUID.
    fn load(&self, state: &State) -> Result<(), HypervisorError> {
        let fd = &self.fd;
        fd.set_mp_state(convert::mp_state(state.run_state)).map_err(call("KVM_SET_MP_STATE"))?;
        if let Some(registers) = &state.registers {
            fd.set_regs(&convert::kvm_regs(registers)).map_err(call("KVM_SET_REGS"))?;
        }
        if let Some(special) = &state.special {
            fd.set_sregs(&convert::kvm_sregs(special)).map_err(call("KVM_SET_SREGS"))?;
        }
        if let Some(xsave) = &state.xsave {
            let region = convert::kvm_xsave(xsave);
            // SAFETY: the kernel reads as much as the guest's enabled features take; those that
            // need more than the 4096 bytes of the region are never offered to a guest.
            unsafe { fd.set_xsave(&region) }.map_err(call("KVM_SET_XSAVE"))?;
        }
        if let Some(xcr0) = state.xcr0 {
            fd.set_xcrs(&convert::kvm_xcrs(xcr0)).map_err(call("KVM_SET_XCRS"))?;
        }
        if let Some(debug) = &state.debug {
            fd.set_debug_regs(&convert::kvm_debugregs(debug)).map_err(call("KVM_SET_DEBUGREGS"))?;
        }
        if let Some(lapic) = &state.lapic {
            fd.set_lapic(&convert::kvm_lapic(lapic)).map_err(call("KVM_SET_LAPIC"))?;
        }
        msr::write(fd, &state.msrs)?;
        if let Some(events) = &state.events {
            fd.set_vcpu_events(&convert::kvm_events(events))
                .map_err(call("KVM_SET_VCPU_EVENTS"))?;
        }
        Ok(())
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Result<Exit<'_>, HypervisorError> {
        match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => Ok(Exit::Read { address: port_address(port), data }),
            Ok(VcpuExit::IoOut(port, data)) => {
                Ok(Exit::Write { address: port_address(port), data })
            }
            Ok(exit) => Ok(exits::exit(exit)),
            Err(errno) => exits::refused(errno),
        }
    }

    fn note_pause(&mut self) {
        // Fails if the guest has set up no clock that could inform it.
        let _ = self.fd.kvmclock_ctrl();
    }

    fn save(&mut self) -> Result<SavedVcpu, HypervisorError> {
        self.complete_exit()?;
        let tsc_khz = self.tsc_khz()?;
        Ok(SavedVcpu { state: self.state()?, tsc_khz })
    }

    fn restore(&mut self, state: &State, clock: &Clock) -> Result<(), HypervisorError> {
        self.scale_tsc(clock.tsc_khz)?;
        cpuid::write(&self.fd, &state.cpuid)?;
        self.load(state)
    }

    fn reset(&mut self, state: &State, leads: bool) -> Result<(), HypervisorError> {
        if !is_whole(state) {
            return Err(HypervisorError::PartialState);
        }
        self.complete_exit()?;
        // Reading it makes the kernel process pending INIT and start-up messages, which would
        // change the state later.
        self.fd.get_mp_state().map_err(call("KVM_GET_MP_STATE"))?;
        if leads {
            msr::leave_time(&self.fd, &state.msrs)?;
        }
        self.load(state)
    }

    fn pre_fault(&mut self, guest_address: u64, size: u64) -> bool {
        let mut range = kvm_pre_fault_memory { gpa: guest_address, size, ..Default::default() };
        while range.size > 0 {
            // SAFETY: the kernel reads and writes one `kvm_pre_fault_memory`, which `range` is.
            let answer =
                unsafe { ioctl_with_mut_ref(&self.fd, KVM_PRE_FAULT_MEMORY(), &mut range) };
            let interrupted = || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
            if answer < 0 && !interrupted() {
                return false;
            }
        }
        true
    }

    fn kicker(&self) -> Box<dyn Kick> {
        Box::new(ThreadKick::current())
    }
}
