//! Exceptions that this program causes in a guest, as the processor would.

use applevisor_sys::{hv_reg_t, hv_sys_reg_t};

use super::cpu::Cpu;
use crate::backend::HypervisorError;

/// PSTATE's fields.
const FLAGS: u64 = 0xf << 28;
const DIT: u64 = 1 << 24;
const PAN: u64 = 1 << 22;
const SSBS: u64 = 1 << 12;
const ALL_MASKED: u64 = 0xf << 6;
const MODE: u64 = 0x1f;
/// EL1 with its own stack pointer, and with that of EL0.
const EL1H: u64 = 5;
const EL1T: u64 = 4;

/// SCTLR_EL1.SPAN: PAN stays as it is. SCTLR_EL1.DSSBS: the value of SSBS.
const SPAN: u64 = 1 << 23;
const DSSBS: u64 = 1 << 44;

/// The syndrome of an undefined instruction of four bytes.
const UNDEFINED: u64 = 1 << 25;

/// The state of a processor after its reset: EL1, every interrupt masked.
pub(super) const RESET_PSTATE: u64 = ALL_MASKED | EL1H;

/// Makes the guest's current instruction an undefined one.
pub(super) fn inject_undefined(cpu: &Cpu) -> Result<(), HypervisorError> {
    let pstate = cpu.register(hv_reg_t::CPSR)?;
    let control = cpu.system(hv_sys_reg_t::SCTLR_EL1)?;
    let vectors = cpu.system(hv_sys_reg_t::VBAR_EL1)?;
    cpu.set_system(hv_sys_reg_t::ESR_EL1, UNDEFINED)?;
    cpu.set_system(hv_sys_reg_t::ELR_EL1, cpu.register(hv_reg_t::PC)?)?;
    cpu.set_system(hv_sys_reg_t::SPSR_EL1, pstate)?;
    cpu.set_register(hv_reg_t::CPSR, entered(pstate, control))?;
    cpu.set_register(hv_reg_t::PC, vectors.wrapping_add(vector(pstate)))
}

/// The offset of the vector of a synchronous exception.
fn vector(pstate: u64) -> u64 {
    match pstate & MODE {
        EL1T => 0,
        EL1H => 0x200,
        _ => 0x400,
    }
}

/// PSTATE after an exception to EL1.
fn entered(before: u64, control: u64) -> u64 {
    let kept = before & (FLAGS | DIT | PAN);
    let pan = if control & SPAN == 0 { PAN } else { 0 };
    let ssbs = if control & DSSBS != 0 { SSBS } else { 0 };
    kept | pan | ssbs | ALL_MASKED | EL1H
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_depends_on_the_level_and_stack() {
        assert_eq!([0, EL1T, EL1H].map(vector), [0x400, 0, 0x200]);
    }

    #[test]
    fn entry_masks_interrupts_and_keeps_flags() {
        // From EL0 with the flags N and C, single step and an open branch target.
        let before = 0xa000_0000 | 1 << 21 | 3 << 10;
        assert_eq!(entered(before, SPAN), 0xa000_03c5);
        assert_eq!(entered(before, 0), 0xa000_03c5 | PAN);
        assert_eq!(entered(before | PAN | DIT, SPAN | DSSBS), 0xa000_03c5 | PAN | DIT | SSBS);
        assert_eq!(RESET_PSTATE, 0x3c5);
    }
}
