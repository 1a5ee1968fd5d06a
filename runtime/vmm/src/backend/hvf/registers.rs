//! Registers: which ones make up a vCPU's state, and how they become one of a snapshot.
//!
//! The framework names system registers by their encodings, so its names are those of the snapshot.

use applevisor_sys::{hv_reg_t, hv_simd_fp_reg_t, hv_sys_reg_t as Reg};
use supermachine_formats::snapshot::arch::aarch64::{
    CoreRegisters, GENERAL_REGISTERS, SIMD_REGISTERS, SimdRegisters, SystemRegister,
};

use super::cpu::Cpu;
use super::exception::RESET_PSTATE;
use super::timer;
use crate::arch::aarch64::registers::name;
use crate::backend::HypervisorError;

/// X0 to X30.
pub(super) const GENERAL: [hv_reg_t; GENERAL_REGISTERS] = [
    hv_reg_t::X0,
    hv_reg_t::X1,
    hv_reg_t::X2,
    hv_reg_t::X3,
    hv_reg_t::X4,
    hv_reg_t::X5,
    hv_reg_t::X6,
    hv_reg_t::X7,
    hv_reg_t::X8,
    hv_reg_t::X9,
    hv_reg_t::X10,
    hv_reg_t::X11,
    hv_reg_t::X12,
    hv_reg_t::X13,
    hv_reg_t::X14,
    hv_reg_t::X15,
    hv_reg_t::X16,
    hv_reg_t::X17,
    hv_reg_t::X18,
    hv_reg_t::X19,
    hv_reg_t::X20,
    hv_reg_t::X21,
    hv_reg_t::X22,
    hv_reg_t::X23,
    hv_reg_t::X24,
    hv_reg_t::X25,
    hv_reg_t::X26,
    hv_reg_t::X27,
    hv_reg_t::X28,
    hv_reg_t::X29,
    hv_reg_t::X30,
];

/// V0 to V31.
const SIMD: [hv_simd_fp_reg_t; SIMD_REGISTERS] = [
    hv_simd_fp_reg_t::Q0,
    hv_simd_fp_reg_t::Q1,
    hv_simd_fp_reg_t::Q2,
    hv_simd_fp_reg_t::Q3,
    hv_simd_fp_reg_t::Q4,
    hv_simd_fp_reg_t::Q5,
    hv_simd_fp_reg_t::Q6,
    hv_simd_fp_reg_t::Q7,
    hv_simd_fp_reg_t::Q8,
    hv_simd_fp_reg_t::Q9,
    hv_simd_fp_reg_t::Q10,
    hv_simd_fp_reg_t::Q11,
    hv_simd_fp_reg_t::Q12,
    hv_simd_fp_reg_t::Q13,
    hv_simd_fp_reg_t::Q14,
    hv_simd_fp_reg_t::Q15,
    hv_simd_fp_reg_t::Q16,
    hv_simd_fp_reg_t::Q17,
    hv_simd_fp_reg_t::Q18,
    hv_simd_fp_reg_t::Q19,
    hv_simd_fp_reg_t::Q20,
    hv_simd_fp_reg_t::Q21,
    hv_simd_fp_reg_t::Q22,
    hv_simd_fp_reg_t::Q23,
    hv_simd_fp_reg_t::Q24,
    hv_simd_fp_reg_t::Q25,
    hv_simd_fp_reg_t::Q26,
    hv_simd_fp_reg_t::Q27,
    hv_simd_fp_reg_t::Q28,
    hv_simd_fp_reg_t::Q29,
    hv_simd_fp_reg_t::Q30,
    hv_simd_fp_reg_t::Q31,
];

/// System registers that every macOS has, by rising encoding. Those of the debugger, and those that
/// have a field of their own in the state, are not among them.
const SYSTEM: [Reg; 31] = [
    Reg::MDCCINT_EL1,
    Reg::MDSCR_EL1,
    Reg::SCTLR_EL1,
    Reg::CPACR_EL1,
    Reg::TTBR0_EL1,
    Reg::TTBR1_EL1,
    Reg::TCR_EL1,
    Reg::APIAKEYLO_EL1,
    Reg::APIAKEYHI_EL1,
    Reg::APIBKEYLO_EL1,
    Reg::APIBKEYHI_EL1,
    Reg::APDAKEYLO_EL1,
    Reg::APDAKEYHI_EL1,
    Reg::APDBKEYLO_EL1,
    Reg::APDBKEYHI_EL1,
    Reg::APGAKEYLO_EL1,
    Reg::APGAKEYHI_EL1,
    Reg::AFSR0_EL1,
    Reg::AFSR1_EL1,
    Reg::ESR_EL1,
    Reg::FAR_EL1,
    Reg::PAR_EL1,
    Reg::MAIR_EL1,
    Reg::AMAIR_EL1,
    Reg::VBAR_EL1,
    Reg::CONTEXTIDR_EL1,
    Reg::TPIDR_EL1,
    Reg::CNTKCTL_EL1,
    Reg::CSSELR_EL1,
    Reg::TPIDR_EL0,
    Reg::TPIDRRO_EL0,
];

/// System registers that macOS has since some version, on some processors.
const NEWER: [Reg; 3] = [Reg::ACTLR_EL1, Reg::SCXTNUM_EL1, Reg::SCXTNUM_EL0];

/// The value and the control register of each breakpoint and of each watchpoint.
#[rustfmt::skip]
const DEBUG: [Reg; 64] = [
    Reg::DBGBVR0_EL1, Reg::DBGBCR0_EL1, Reg::DBGWVR0_EL1, Reg::DBGWCR0_EL1,
    Reg::DBGBVR1_EL1, Reg::DBGBCR1_EL1, Reg::DBGWVR1_EL1, Reg::DBGWCR1_EL1,
    Reg::DBGBVR2_EL1, Reg::DBGBCR2_EL1, Reg::DBGWVR2_EL1, Reg::DBGWCR2_EL1,
    Reg::DBGBVR3_EL1, Reg::DBGBCR3_EL1, Reg::DBGWVR3_EL1, Reg::DBGWCR3_EL1,
    Reg::DBGBVR4_EL1, Reg::DBGBCR4_EL1, Reg::DBGWVR4_EL1, Reg::DBGWCR4_EL1,
    Reg::DBGBVR5_EL1, Reg::DBGBCR5_EL1, Reg::DBGWVR5_EL1, Reg::DBGWCR5_EL1,
    Reg::DBGBVR6_EL1, Reg::DBGBCR6_EL1, Reg::DBGWVR6_EL1, Reg::DBGWCR6_EL1,
    Reg::DBGBVR7_EL1, Reg::DBGBCR7_EL1, Reg::DBGWVR7_EL1, Reg::DBGWCR7_EL1,
    Reg::DBGBVR8_EL1, Reg::DBGBCR8_EL1, Reg::DBGWVR8_EL1, Reg::DBGWCR8_EL1,
    Reg::DBGBVR9_EL1, Reg::DBGBCR9_EL1, Reg::DBGWVR9_EL1, Reg::DBGWCR9_EL1,
    Reg::DBGBVR10_EL1, Reg::DBGBCR10_EL1, Reg::DBGWVR10_EL1, Reg::DBGWCR10_EL1,
    Reg::DBGBVR11_EL1, Reg::DBGBCR11_EL1, Reg::DBGWVR11_EL1, Reg::DBGWCR11_EL1,
    Reg::DBGBVR12_EL1, Reg::DBGBCR12_EL1, Reg::DBGWVR12_EL1, Reg::DBGWCR12_EL1,
    Reg::DBGBVR13_EL1, Reg::DBGBCR13_EL1, Reg::DBGWVR13_EL1, Reg::DBGWCR13_EL1,
    Reg::DBGBVR14_EL1, Reg::DBGBCR14_EL1, Reg::DBGWVR14_EL1, Reg::DBGWCR14_EL1,
    Reg::DBGBVR15_EL1, Reg::DBGBCR15_EL1, Reg::DBGWVR15_EL1, Reg::DBGWCR15_EL1,
];

/// SCTLR_EL1 after a reset: the bits that are one, without translation and caches.
const RESET_CONTROL: u64 = 0x30d0_0800;

/// The number of a system register in a snapshot.
pub(super) const fn encoding_of(register: Reg) -> u16 {
    register as u16
}

/// The system registers that a vCPU has, by rising encoding.
#[derive(Debug)]
pub(super) struct SystemRegisters(Vec<Reg>);

impl SystemRegisters {
    /// Those of this host's vCPUs.
    pub(super) fn of(cpu: &Cpu) -> Result<Self, HypervisorError> {
        let features = cpu.system(Reg::ID_AA64DFR0_EL1)?;
        let count = |shift: u32| (features >> shift & 0xf) as u16;
        let has = |register: &Reg| {
            let (number, part) = (encoding_of(*register) >> 3 & 0xf, encoding_of(*register) & 7);
            // The fields are one less than the numbers of breakpoints and watchpoints.
            number <= if part < 6 { count(12) } else { count(20) }
        };
        let mut registers: Vec<Reg> = DEBUG.into_iter().filter(has).chain(SYSTEM).collect();
        // A system without one of these refuses to read or write it.
        let newer = NEWER.into_iter().filter(|register| {
            cpu.system(*register).is_ok_and(|value| cpu.set_system(*register, value).is_ok())
        });
        registers.extend(newer);
        registers.sort_unstable_by_key(|register| encoding_of(*register));
        Ok(Self(registers))
    }

    pub(super) fn save(&self, cpu: &Cpu) -> Result<Vec<SystemRegister>, HypervisorError> {
        let read = |register: &Reg| {
            Ok(SystemRegister { encoding: encoding_of(*register), value: cpu.system(*register)? })
        };
        self.0.iter().map(read).collect()
    }

    /// Restores registers. One that is not saved gets its value after a reset.
    pub(super) fn load(&self, cpu: &Cpu, saved: &[SystemRegister]) -> Result<(), HypervisorError> {
        self.check(saved)?;
        for register in &self.0 {
            let found = saved.iter().find(|saved| saved.encoding == encoding_of(*register));
            let value = found.map_or_else(|| after_reset(*register), |saved| saved.value);
            cpu.set_system(*register, value)
                .map_err(|_| HypervisorError::Register { name: name(encoding_of(*register)) })?;
        }
        Ok(())
    }

    /// Refuses registers that this host's vCPUs do not have.
    fn check(&self, saved: &[SystemRegister]) -> Result<(), HypervisorError> {
        let is_known = |saved: &&SystemRegister| {
            self.0.iter().any(|register| encoding_of(*register) == saved.encoding)
        };
        match saved.iter().find(|saved| !is_known(saved)) {
            None => Ok(()),
            Some(unknown) => Err(HypervisorError::Register { name: name(unknown.encoding) }),
        }
    }
}

fn after_reset(register: Reg) -> u64 {
    if register == Reg::SCTLR_EL1 { RESET_CONTROL } else { 0 }
}

/// General registers after a reset.
pub(super) fn core_after_reset() -> CoreRegisters {
    CoreRegisters {
        x: [0; GENERAL_REGISTERS],
        pc: 0,
        pstate: RESET_PSTATE,
        sp_el0: 0,
        sp_el1: 0,
        elr_el1: 0,
        spsr_el1: 0,
    }
}

pub(super) fn save_core(cpu: &Cpu) -> Result<CoreRegisters, HypervisorError> {
    let mut x = [0; GENERAL_REGISTERS];
    for (value, register) in x.iter_mut().zip(GENERAL) {
        *value = cpu.register(register)?;
    }
    Ok(CoreRegisters {
        x,
        pc: cpu.register(hv_reg_t::PC)?,
        pstate: cpu.register(hv_reg_t::CPSR)?,
        sp_el0: cpu.system(Reg::SP_EL0)?,
        sp_el1: cpu.system(Reg::SP_EL1)?,
        elr_el1: cpu.system(Reg::ELR_EL1)?,
        spsr_el1: cpu.system(Reg::SPSR_EL1)?,
    })
}

pub(super) fn load_core(cpu: &Cpu, core: &CoreRegisters) -> Result<(), HypervisorError> {
    for (value, register) in core.x.iter().zip(GENERAL) {
        cpu.set_register(register, *value)?;
    }
    cpu.set_register(hv_reg_t::PC, core.pc)?;
    cpu.set_register(hv_reg_t::CPSR, core.pstate)?;
    cpu.set_system(Reg::SP_EL0, core.sp_el0)?;
    cpu.set_system(Reg::SP_EL1, core.sp_el1)?;
    cpu.set_system(Reg::ELR_EL1, core.elr_el1)?;
    cpu.set_system(Reg::SPSR_EL1, core.spsr_el1)
}

/// SIMD registers after a reset.
pub(super) fn simd_after_reset() -> SimdRegisters {
    SimdRegisters { v: [[0; 2]; SIMD_REGISTERS], fpsr: 0, fpcr: 0 }
}

pub(super) fn save_simd(cpu: &Cpu) -> Result<SimdRegisters, HypervisorError> {
    let mut v = [[0; 2]; SIMD_REGISTERS];
    for (value, register) in v.iter_mut().zip(SIMD) {
        *value = cpu.simd(register)?;
    }
    Ok(SimdRegisters {
        v,
        fpsr: cpu.register(hv_reg_t::FPSR)? as u32,
        fpcr: cpu.register(hv_reg_t::FPCR)? as u32,
    })
}

pub(super) fn load_simd(cpu: &Cpu, simd: &SimdRegisters) -> Result<(), HypervisorError> {
    for (value, register) in simd.v.iter().zip(SIMD) {
        cpu.set_simd(register, *value)?;
    }
    cpu.set_register(hv_reg_t::FPSR, simd.fpsr.into())?;
    cpu.set_register(hv_reg_t::FPCR, simd.fpcr.into())
}

/// The virtual and the physical timer.
pub(super) fn timers(cpu: &Cpu) -> Result<(timer::Registers, timer::Registers), HypervisorError> {
    let read = |control, compare| {
        Ok(timer::Registers { control: cpu.system(control)?, compare: cpu.system(compare)? })
    };
    Ok((read(Reg::CNTV_CTL_EL0, Reg::CNTV_CVAL_EL0)?, read(Reg::CNTP_CTL_EL0, Reg::CNTP_CVAL_EL0)?))
}

/// Restores the virtual and the physical timer. A timer is on only once it has its compare value.
pub(super) fn load_timers(
    cpu: &Cpu,
    (virtual_timer, physical_timer): (timer::Registers, timer::Registers),
) -> Result<(), HypervisorError> {
    cpu.set_system(Reg::CNTV_CVAL_EL0, virtual_timer.compare)?;
    cpu.set_system(Reg::CNTV_CTL_EL0, virtual_timer.control)?;
    cpu.set_system(Reg::CNTP_CVAL_EL0, physical_timer.compare)?;
    cpu.set_system(Reg::CNTP_CTL_EL0, physical_timer.control)
}

#[cfg(test)]
mod tests;
