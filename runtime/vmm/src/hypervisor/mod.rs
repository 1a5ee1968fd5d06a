//! The seam between one machine model and many hypervisors.
//!
//! A backend maps memory, makes vCPUs, runs them until they exit, delivers message-signalled
//! interrupts, and saves and restores registers and clock. It knows no device and no
//! snapshot file. Everything above this module behaves the same on every backend.

#[cfg(test)]
pub(crate) mod fake;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod kvm;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod stub;

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use supermachine_formats::snapshot::arch::x86_64::CpuidLeaf;
use supermachine_formats::snapshot::arch::x86_64::baseline::Register;
use supermachine_formats::snapshot::arch::{Baseline, Features, VcpuState};
use vm_memory::MmapRegion;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) use kvm::{create_vm, family, probe, processor_word};
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) use stub::{create_vm, family, probe, processor_word};

/// A virtual machine without devices.
pub(crate) trait Vm: Debug + Send + Sync {
    /// Shows `region` to the guest at `guest_address`. `index` names the window; each is used
    /// once. The backend keeps the region alive for as long as the guest can reach it.
    fn map(
        &self,
        index: u32,
        guest_address: u64,
        region: Arc<MmapRegion>,
        access: Access,
    ) -> Result<(), HypervisorError>;

    /// Makes the vCPU with this index. Called on the thread that will run it.
    fn create_vcpu(&self, index: u16) -> Result<Box<dyn Vcpu>, HypervisorError>;

    /// What the CPUID instruction of vCPU `index` of `count` answers on a machine that was never
    /// run: all of a named baseline and nothing else, or what a snapshot can bring back of
    /// what the host has.
    fn cpuid(
        &self,
        baseline: Baseline,
        index: u16,
        count: u16,
    ) -> Result<Vec<CpuidLeaf>, HypervisorError>;

    /// What the host's own CPUID instruction answers. Zero where there is no such answer;
    /// without the parts of the extended state that the operating system has not switched on.
    fn processor_word(&self, function: u32, index: u32, register: Register) -> u32;

    /// Delivers a message-signalled interrupt.
    fn signal_msi(&self, address: u64, data: u32) -> Result<(), HypervisorError>;

    /// The guest's paravirtual clock in nanoseconds.
    fn clock_ns(&self) -> Result<u64, HypervisorError>;

    /// Sets the guest's paravirtual clock.
    fn set_clock_ns(&self, ns: u64) -> Result<(), HypervisorError>;
}

/// What the guest may do with mapped memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadOnly,
}

/// One virtual processor. It stays on the thread that made it.
pub(crate) trait Vcpu: Debug {
    /// Runs the guest until it needs the machine, or until it is kicked.
    fn run(&mut self) -> Result<Exit<'_>, HypervisorError>;

    /// Carries out what is left of the last exit, so that [`Vcpu::save`] sees it done.
    fn complete_exit(&mut self) -> Result<(), HypervisorError>;

    /// The processor's state.
    fn save(&mut self) -> Result<VcpuState, HypervisorError>;

    /// Takes on a saved state.
    fn restore(&mut self, state: &VcpuState) -> Result<(), HypervisorError>;

    /// Takes on a saved state on a processor that ran: all of it but what a guest cannot
    /// change, and whatever was under way is done or dropped. The processors of a VM are reset
    /// in two rounds: the one with `leads` alone, which tears its clock from the former time,
    /// then the others, which join it.
    ///
    /// # Errors
    /// [`HypervisorError::PartialState`] if something of the former guest would stay.
    fn reset(&mut self, state: &VcpuState, leads: bool) -> Result<(), HypervisorError>;

    /// Tells the guest's kernel that it stood still, so that it takes the time that passed for no
    /// fault of its processors. Nothing where guests have no such word.
    fn note_pause(&mut self) {}

    /// Makes the pages of a stretch of guest memory reachable without an exit for each. Only
    /// a speed-up: tells whether it could be done.
    fn pre_fault(&mut self, guest_address: u64, size: u64) -> bool;

    /// Brings the time-stamp counter to a rate in kHz; 0 keeps the host's own.
    fn set_tsc_khz(&mut self, khz: u32) -> Result<(), HypervisorError>;

    /// The rate of the time-stamp counter in kHz.
    fn tsc_khz(&self) -> Result<u32, HypervisorError>;

    /// What makes [`Vcpu::run`] return from another thread. Called on the vCPU's thread.
    fn kicker(&self) -> Box<dyn Kick>;
}

/// Makes a vCPU's [`Vcpu::run`] return [`Exit::Kicked`], now or when it is next called.
pub(crate) trait Kick: Debug + Send + Sync {
    fn kick(&self);
}

/// Why a vCPU stopped running.
#[derive(Debug)]
pub(crate) enum Exit<'a> {
    /// Another thread asked for it.
    Kicked,
    /// The guest reads device memory; the answer goes into `data`.
    MmioRead { address: u64, data: &'a mut [u8] },
    /// The guest writes device memory.
    MmioWrite { address: u64, data: &'a [u8] },
    /// The guest reads a port; the answer goes into `data`.
    PortRead { port: u16, data: &'a mut [u8] },
    /// The guest writes a port.
    PortWrite { port: u16, data: &'a [u8] },
    /// The guest shut down or reset itself.
    Shutdown,
    /// The hypervisor cannot go on.
    Failed { reason: &'static str, code: u64 },
}

/// Why a hypervisor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HypervisorError {
    /// The hypervisor's device is not there: no hardware support, or it is switched off.
    #[error("no hypervisor at {path}; `supermachine doctor` tells what this host lacks")]
    Missing {
        /// The device that was looked for.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The hypervisor's device may not be opened.
    #[error("no permission to open {path}; add the user to the group that owns it")]
    Permission {
        /// The device.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// This build has no backend for the platform.
    #[error("no hypervisor backend for this operating system and processor")]
    Unsupported,
    /// The hypervisor lacks something that every machine needs.
    #[error("hypervisor lacks {capability}")]
    Capability {
        /// What it lacks.
        capability: &'static str,
    },
    /// The hypervisor does not offer guests all of a baseline.
    #[error("hypervisor offers guests no {missing}, which {baseline} has")]
    Features {
        /// The baseline.
        baseline: Baseline,
        /// What is not there.
        missing: Features,
    },
    /// The time-stamp counter has another rate, and the hypervisor cannot scale it.
    #[error(
        "snapshot's time-stamp counter runs at {snapshot_khz} kHz, this host's at {host_khz} kHz, and the hypervisor cannot scale it"
    )]
    TscRate {
        /// The rate when the snapshot was taken.
        snapshot_khz: u32,
        /// This host's rate.
        host_khz: u32,
    },
    /// A processor in use was to take on a state that leaves parts of it as they are.
    #[error("state holds only a part of a processor")]
    PartialState,
    /// A call failed.
    #[error("hypervisor call {call} failed")]
    Call {
        /// The call's name.
        call: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A model-specific register of the snapshot is not accepted by this host.
    #[error("host refuses model-specific register {index:#x}")]
    Msr {
        /// The register's number.
        index: u32,
    },
}
