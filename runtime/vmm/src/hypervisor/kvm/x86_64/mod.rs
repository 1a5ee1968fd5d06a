//! KVM's vCPUs on x86_64.

mod convert;
pub(super) mod cpuid;
mod model;
mod msr;
mod processor;

use std::io;
use std::sync::Arc;

use kvm_bindings::kvm_pre_fault_memory;
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd};
use supermachine_formats::snapshot::arch::x86_64::Vcpu as State;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

use super::signal::{self, ThreadKick};
use super::{HypervisorError, call};
use crate::hypervisor::{Exit, Kick, Vcpu};
pub(crate) use processor::processor_word;

ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, kvm_bindings::KVMIO, 0xd5, kvm_pre_fault_memory);

/// How far two time-stamp counters may differ, in parts per million, and still count as the
/// same rate: what the kernel's own clock discipline copes with.
const TSC_TOLERANCE_PPM: u64 = 250;

/// The parts of the extended state that a guest without XSAVE has: x87 and SSE.
const LEGACY_STATE: u64 = 3;

/// Whether a state says everything of a processor.
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

    /// Brings the guest's time-stamp counter to the rate that it had when it was saved.
    fn scale_tsc(&self, wanted: u32) -> Result<(), HypervisorError> {
        let own = self.tsc_khz()?;
        let difference = u64::from(own.abs_diff(wanted)) * 1_000_000;
        if wanted == 0 || difference <= u64::from(wanted) * TSC_TOLERANCE_PPM {
            return Ok(());
        }
        // Without scaling, the kernel takes some rates nevertheless and lets the counter jump.
        if !self.kvm.check_extension(Cap::TscControl) {
            return Err(HypervisorError::TscRate { snapshot_khz: wanted, host_khz: own });
        }
        self.fd.set_tsc_khz(wanted).map_err(call("KVM_SET_TSC_KHZ"))
    }

    /// Sets everything but the answers of CPUID.
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
            Ok(exit) => Ok(match exit {
                VcpuExit::MmioRead(address, data) => Exit::MmioRead { address, data },
                VcpuExit::MmioWrite(address, data) => Exit::MmioWrite { address, data },
                VcpuExit::IoIn(port, data) => Exit::PortRead { port, data },
                VcpuExit::IoOut(port, data) => Exit::PortWrite { port, data },
                VcpuExit::Shutdown | VcpuExit::SystemEvent(..) => Exit::Shutdown,
                VcpuExit::InternalError => Exit::Failed { reason: "internal error", code: 0 },
                VcpuExit::FailEntry(code, _) => Exit::Failed { reason: "entry refused", code },
                VcpuExit::MemoryFault { gpa, .. } => {
                    Exit::Failed { reason: "memory fault", code: gpa }
                }
                VcpuExit::Unsupported(code) => {
                    Exit::Failed { reason: "unknown exit", code: code.into() }
                }
                _ => Exit::Failed { reason: "unexpected exit", code: 0 },
            }),
            Err(errno) if errno.errno() == libc::EINTR || errno.errno() == libc::EAGAIN => {
                signal::drain();
                Ok(Exit::Kicked)
            }
            Err(errno) if errno.errno() == libc::EFAULT => {
                Ok(Exit::Failed { reason: "guest memory cannot be read", code: 0 })
            }
            Err(errno) => Err(call("KVM_RUN")(errno)),
        }
    }

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

    fn note_pause(&mut self) {
        // Refused where the guest has set up no clock to be told by.
        let _ = self.fd.kvmclock_ctrl();
    }

    fn save(&mut self) -> Result<State, HypervisorError> {
        let fd = &self.fd;
        // The run state first: reading it lets the kernel settle pending INIT and start-up
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

    fn restore(&mut self, state: &State) -> Result<(), HypervisorError> {
        cpuid::write(&self.fd, &state.cpuid)?;
        self.load(state)
    }

    fn reset(&mut self, state: &State, leads: bool) -> Result<(), HypervisorError> {
        if !is_whole(state) {
            return Err(HypervisorError::PartialState);
        }
        self.complete_exit()?;
        // Reading it lets the kernel settle pending INIT and start-up messages, which would
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

    fn set_tsc_khz(&mut self, khz: u32) -> Result<(), HypervisorError> {
        self.scale_tsc(khz)
    }

    fn tsc_khz(&self) -> Result<u32, HypervisorError> {
        self.fd.get_tsc_khz().map_err(call("KVM_GET_TSC_KHZ"))
    }

    fn kicker(&self) -> Box<dyn Kick> {
        Box::new(ThreadKick::current())
    }
}
