//! The state of an arm64 machine's vCPU, and how its system registers are named.

use alloc::vec::Vec;

use crate::record::{byte_enum, record};

/// The most system registers of a vCPU, and of its CPU interface.
pub const MAX_SYSTEM_REGISTERS: usize = 512;
/// The bits of MPIDR that identify a vCPU.
pub const AFFINITY: u64 = 0xff_00ff_ffff;
/// General registers, X0 to X30.
pub const GENERAL_REGISTERS: usize = 31;
/// SIMD registers.
pub const SIMD_REGISTERS: usize = 32;

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

/// Whether registers rise by encoding, are few enough, and are all system registers.
pub(super) fn rises(registers: &[SystemRegister]) -> bool {
    registers.len() <= MAX_SYSTEM_REGISTERS
        && registers.iter().all(|register| register.encoding >= FIRST_ENCODING)
        && registers.is_sorted_by(|one, two| one.encoding < two.encoding)
}

/// The least encoding of a system register: those with an op0 of 2 or 3.
pub(super) const FIRST_ENCODING: u16 = 2 << 14;

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
