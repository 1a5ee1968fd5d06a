//! The state of an arm64 machine's vCPUs, interrupt controller and counter.
//!
//! Registers have the widths, meanings and encodings of the architecture's manuals; no hypervisor's
//! structure is used. This module checks form, counts and identity only: the hypervisor refuses a
//! value that no processor accepts.

pub mod gic;
pub mod processor;
#[cfg(test)]
pub(in crate::snapshot) mod tests;

use alloc::vec::Vec;

pub use gic::{Gic, GicRegister, GicRegisters, Redistributor};
pub use processor::Processor;

use super::inconsistent;
use crate::record::{byte_enum, record};
use crate::snapshot::container::{Builder, Container, Section, SnapshotError};
use crate::snapshot::machine::{HypervisorFamily, MAX_VCPUS};

/// The most system registers of a vCPU, and of its CPU interface.
pub const MAX_SYSTEM_REGISTERS: usize = 512;
/// The bits of MPIDR that identify a vCPU.
pub const AFFINITY: u64 = 0xff_00ff_ffff;
/// General registers, X0 to X30.
pub const GENERAL_REGISTERS: usize = 31;
/// SIMD registers.
pub const SIMD_REGISTERS: usize = 32;

/// The state of an arm64 machine that is neither memory nor device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What the snapshot requires of the host's processor.
    pub processor: Processor,
    /// The vCPUs.
    pub vcpus: Vec<Vcpu>,
    /// The interrupt controller.
    pub gic: Gic,
    /// The counter.
    pub counter: Counter,
}

impl State {
    /// Adds this architecture's sections to a state file.
    pub(super) fn encode(&self, file: &mut Builder) {
        file.add(Section::ArmVcpus, &self.vcpus);
        file.add(Section::Gic, &self.gic);
        file.add(Section::Counter, &self.counter);
        file.add(Section::ArmProcessor, &self.processor);
    }

    /// Reads this architecture's sections from a state file.
    pub(super) fn decode(container: &Container<'_>) -> Result<Self, SnapshotError> {
        Ok(Self {
            processor: container.section(Section::ArmProcessor)?,
            vcpus: container.list(Section::ArmVcpus, MAX_VCPUS)?,
            gic: container.section(Section::Gic)?,
            counter: container.section(Section::Counter)?,
        })
    }

    /// Checks the state against the machine's number of vCPUs and its hypervisor.
    pub(super) fn validate(
        &self,
        vcpus: u16,
        hypervisor: HypervisorFamily,
    ) -> Result<(), SnapshotError> {
        if vcpus == 0 || self.vcpus.len() != usize::from(vcpus) {
            return Err(inconsistent(
                Section::ArmVcpus,
                "another number of vCPUs than the machine",
            ));
        }
        let mut affinities: Vec<u64> = self.vcpus.iter().map(|vcpu| vcpu.mpidr).collect();
        if affinities.iter().any(|mpidr| mpidr & !AFFINITY != 0) {
            return Err(inconsistent(Section::ArmVcpus, "an MPIDR with bits that are no affinity"));
        }
        affinities.sort_unstable();
        affinities.dedup();
        if affinities.len() != self.vcpus.len() {
            return Err(inconsistent(Section::ArmVcpus, "two vCPUs with the same MPIDR"));
        }
        for vcpu in &self.vcpus {
            if [&vcpu.system, &vcpu.cpu_interface].iter().any(|list| !rises(list)) {
                return Err(inconsistent(Section::ArmVcpus, "system registers out of order"));
            }
        }
        if !self.processor.is_valid() {
            return Err(inconsistent(
                Section::ArmProcessor,
                "registers that identify no processor",
            ));
        }
        self.gic.validate(&self.vcpus, hypervisor).map_err(|what| inconsistent(Section::Gic, what))
    }
}

impl Vcpu {
    /// A vCPU after its reset.
    #[must_use]
    pub fn after_reset(mpidr: u64, power: Power) -> Self {
        Self {
            mpidr,
            power,
            core: None,
            simd: None,
            system: Vec::new(),
            timers: None,
            cpu_interface: Vec::new(),
            events: None,
        }
    }
}

impl Counter {
    /// The counter of a machine that was never run.
    #[must_use]
    pub fn after_reset() -> Self {
        Self { value: 0, frequency_hz: 0, realtime_ns: 0 }
    }
}

/// Whether registers rise by encoding, are few enough, and are all system registers.
fn rises(registers: &[SystemRegister]) -> bool {
    registers.len() <= MAX_SYSTEM_REGISTERS
        && registers.iter().all(|register| register.encoding >= FIRST_ENCODING)
        && registers.is_sorted_by(|one, two| one.encoding < two.encoding)
}

/// The least encoding of a system register: those with an op0 of 2 or 3.
const FIRST_ENCODING: u16 = 2 << 14;

/// The address of the first slot's registers in the guest. The agent names devices by it.
pub const SLOTS_START: u64 = 0x0a00_0000;
/// Bytes of a slot's registers.
pub const SLOT_SIZE: u64 = 0x1000;

/// The encoding of a system register: the five operands of the instructions that access it.
#[must_use]
pub const fn encoding(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> u16 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

record! {
    /// One vCPU. A part that is `None`, and a register that is not listed, has the state of a
    /// processor after reset.
    pub struct Vcpu {
        /// The affinity fields of MPIDR_EL1, which identify the vCPU.
        mpidr: u64,
        /// Whether it runs.
        power: Power,
        /// General registers.
        core: Option<CoreRegisters>,
        /// SIMD and floating-point registers.
        simd: Option<SimdRegisters>,
        /// System registers that software can write, by rising encoding. Those in the other fields
        /// are not listed.
        system: Vec<SystemRegister>,
        /// The timers of EL1.
        timers: Option<Timers>,
        /// The registers of the interrupt controller's CPU interface (ICC), by rising encoding.
        cpu_interface: Vec<SystemRegister>,
        /// Exceptions in progress.
        events: Option<Events>,
    }

    /// General registers.
    pub struct CoreRegisters {
        /// X0 to X30.
        x: [u64; GENERAL_REGISTERS],
        /// The program counter.
        pc: u64,
        /// PSTATE, in the form of SPSR.
        pstate: u64,
        /// SP_EL0.
        sp_el0: u64,
        /// SP_EL1.
        sp_el1: u64,
        /// ELR_EL1.
        elr_el1: u64,
        /// SPSR_EL1.
        spsr_el1: u64,
    }

    /// SIMD and floating-point registers.
    pub struct SimdRegisters {
        /// V0 to V31, each as its lower and upper half.
        v: [[u64; 2]; SIMD_REGISTERS],
        /// FPSR.
        fpsr: u32,
        /// FPCR.
        fpcr: u32,
    }

    /// The timers of EL1. A timer fires once the counter reaches `compare`.
    pub struct Timers {
        /// The virtual timer.
        virtual_timer: Timer,
        /// The physical timer.
        physical_timer: Timer,
    }

    /// Exceptions in progress.
    pub struct Events {
        /// A system error is pending.
        serror_pending: bool,
        /// Its syndrome, if it has one.
        serror_syndrome: Option<u64>,
    }

    /// The machine's counter, which its timers and its clocks count.
    pub struct Counter {
        /// The virtual counter (CNTVCT_EL0) at capture.
        value: u64,
        /// The rate (CNTFRQ_EL0) in Hz. 0 means the host's own, in a snapshot that was never run.
        frequency_hz: u32,
        /// The host's wall clock at capture, in nanoseconds since 1970-01-01 UTC.
        realtime_ns: u64,
    }
}

record! {
    /// A system register.
    #[derive(Copy)]
    pub struct SystemRegister {
        /// Its [`encoding`].
        encoding: u16,
        /// Its value.
        value: u64,
    }

    /// A timer.
    #[derive(Copy)]
    pub struct Timer {
        /// Its control register.
        control: u32,
        /// Its compare value.
        compare: u64,
    }
}

byte_enum! {
    /// Whether a vCPU runs.
    pub enum Power {
        /// Executes instructions, or waits for an interrupt in WFI.
        On = 0,
        /// Waits for another vCPU to start it (PSCI CPU_ON).
        Off = 1,
        /// Suspended itself (PSCI CPU_SUSPEND) and waits for an interrupt.
        Suspended = 2,
    }
}
