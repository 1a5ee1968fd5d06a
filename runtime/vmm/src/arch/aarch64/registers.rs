//! The system registers of a vCPU's state.

use supermachine_formats::snapshot::arch::aarch64::encoding;
use supermachine_formats::snapshot::arch::aarch64::processor::is_identification;

/// MIDR_EL1, which names the core.
pub(crate) const MIDR: u16 = encoding(3, 0, 0, 0, 0);
/// MPIDR_EL1, which names the vCPU.
pub(crate) const MPIDR: u16 = encoding(3, 0, 0, 0, 5);

/// Registers that are elsewhere in the state, or that only describe the processor.
const ELSEWHERE: &[u16] = &[
    encoding(3, 0, 4, 0, 0),  // SPSR_EL1
    encoding(3, 0, 4, 0, 1),  // ELR_EL1
    encoding(3, 0, 4, 1, 0),  // SP_EL0
    encoding(3, 4, 4, 1, 0),  // SP_EL1
    encoding(3, 3, 4, 4, 0),  // FPCR
    encoding(3, 3, 4, 4, 1),  // FPSR
    encoding(3, 3, 14, 2, 0), // CNTP_TVAL_EL0
    encoding(3, 3, 14, 2, 1), // CNTP_CTL_EL0
    encoding(3, 3, 14, 2, 2), // CNTP_CVAL_EL0
    encoding(3, 3, 14, 3, 0), // CNTV_TVAL_EL0
    encoding(3, 3, 14, 3, 1), // CNTV_CTL_EL0
    encoding(3, 3, 14, 3, 2), // CNTV_CVAL_EL0
    encoding(3, 3, 14, 0, 0), // CNTFRQ_EL0
    encoding(3, 3, 14, 0, 1), // CNTPCT_EL0
    encoding(3, 3, 14, 0, 2), // CNTVCT_EL0
    encoding(3, 3, 0, 0, 7),  // DCZID_EL0
    encoding(3, 1, 0, 0, 0),  // CCSIDR_EL1
    encoding(3, 1, 0, 0, 1),  // CLIDR_EL1
    encoding(3, 1, 0, 0, 2),  // CCSIDR2_EL1
    encoding(3, 1, 0, 0, 7),  // AIDR_EL1
    encoding(2, 0, 1, 1, 4),  // OSLSR_EL1
];

/// Whether a system register is one that the guest changes, and that the state lists.
pub(crate) fn is_state(register: u16) -> bool {
    let identity = encoding(3, 0, 0, 0, 0)..=encoding(3, 0, 0, 0, 7);
    // The interrupt controller's CPU interface.
    let is_interface = super::gic::CPU_INTERFACE.contains(&register);
    !is_identification(register)
        && !identity.contains(&register)
        && !ELSEWHERE.contains(&register)
        && !is_interface
}

/// A register's name, as assemblers accept it.
pub(crate) fn name(register: u16) -> String {
    let field = |shift: u32, mask: u16| register >> shift & mask;
    format!(
        "S{}_{}_C{}_C{}_{}",
        field(14, 3),
        field(11, 7),
        field(7, 15),
        field(3, 15),
        field(0, 7)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_that_the_guest_changes_are_state() {
        for register in [
            encoding(3, 0, 1, 0, 0),  // SCTLR_EL1
            encoding(3, 0, 2, 0, 0),  // TTBR0_EL1
            encoding(3, 0, 12, 0, 0), // VBAR_EL1
            encoding(3, 3, 13, 0, 2), // TPIDR_EL0
            encoding(3, 0, 14, 1, 0), // CNTKCTL_EL1
            encoding(3, 2, 0, 0, 0),  // CSSELR_EL1
            encoding(2, 0, 0, 0, 4),  // DBGBVR0_EL1
            encoding(3, 0, 2, 1, 0),  // APIAKeyLo_EL1
        ] {
            assert!(is_state(register), "{}", name(register));
        }
    }

    #[test]
    fn registers_that_describe_or_are_elsewhere_are_not_state() {
        for register in [
            MIDR,
            MPIDR,
            encoding(3, 0, 0, 4, 0),   // ID_AA64PFR0_EL1
            encoding(3, 3, 0, 0, 1),   // CTR_EL0
            encoding(3, 3, 14, 3, 2),  // CNTV_CVAL_EL0
            encoding(3, 0, 4, 6, 0),   // ICC_PMR_EL1
            encoding(3, 0, 12, 12, 7), // ICC_IGRPEN1_EL1
        ] {
            assert!(!is_state(register), "{}", name(register));
        }
    }

    #[test]
    fn name_has_the_operands() {
        assert_eq!(name(encoding(3, 3, 14, 3, 1)), "S3_3_C14_C3_1");
    }
}
