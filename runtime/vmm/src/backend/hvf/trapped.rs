//! System registers whose accesses the framework leaves to this program.
//!
//! Debug registers read as zero and ignore writes, except for the OS lock, which remembers what was
//! written. Other registers do not exist for the guest.

use supermachine_formats::snapshot::arch::aarch64::encoding;

/// OSLAR_EL1, which sets the lock.
pub(super) const OS_LOCK: u16 = encoding(2, 0, 1, 0, 4);
/// OSLSR_EL1, which shows it.
const OS_LOCK_STATUS: u16 = encoding(2, 0, 1, 1, 4);
/// OSLSR_EL1.OSLM: there is a lock.
const HAS_LOCK: u64 = 1 << 3;
/// CNTPCT_EL0.
const PHYSICAL_COUNTER: u16 = encoding(3, 3, 14, 0, 1);
/// ACTLR_EL1.
const AUXILIARY_CONTROL: u16 = encoding(3, 0, 1, 0, 1);

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// A read has this value.
    Value(u64),
    /// A write has no effect.
    Ignored,
    /// The OS lock is set or released.
    Lock(bool),
    /// The instruction is undefined.
    Undefined,
}

/// A read.
pub(super) fn read(register: u16, is_locked: bool, host_counter: u64) -> Answer {
    match register {
        OS_LOCK_STATUS => Answer::Value(HAS_LOCK | u64::from(is_locked) << 1),
        // It can only be written.
        OS_LOCK => Answer::Undefined,
        PHYSICAL_COUNTER => Answer::Value(host_counter),
        AUXILIARY_CONTROL => Answer::Value(0),
        _ if is_debug(register) => Answer::Value(0),
        _ => Answer::Undefined,
    }
}

/// A write.
pub(super) fn write(register: u16, value: u64) -> Answer {
    match register {
        OS_LOCK => Answer::Lock(value & 1 == 1),
        OS_LOCK_STATUS | PHYSICAL_COUNTER => Answer::Undefined,
        AUXILIARY_CONTROL => Answer::Ignored,
        _ if is_debug(register) => Answer::Ignored,
        _ => Answer::Undefined,
    }
}

/// Whether a register is one of EL1's debug registers.
fn is_debug(register: u16) -> bool {
    let first = encoding(2, 0, 0, 0, 0);
    let last = encoding(2, 0, 15, 15, 7);
    (first..=last).contains(&register)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_registers_read_as_zero_and_ignore_writes() {
        for register in [
            encoding(2, 0, 0, 0, 4),  // DBGBVR0_EL1
            encoding(2, 0, 0, 15, 7), // DBGWCR15_EL1
            encoding(2, 0, 0, 2, 2),  // MDSCR_EL1
            encoding(2, 0, 1, 3, 4),  // OSDLR_EL1
            encoding(2, 0, 7, 14, 6), // DBGAUTHSTATUS_EL1
            encoding(3, 0, 1, 0, 1),  // ACTLR_EL1
        ] {
            assert_eq!(read(register, true, 7), Answer::Value(0), "{register:#x}");
            assert_eq!(write(register, u64::MAX), Answer::Ignored, "{register:#x}");
        }
    }

    #[test]
    fn os_lock_shows_what_was_written() {
        assert_eq!(write(OS_LOCK, 1), Answer::Lock(true));
        assert_eq!(write(OS_LOCK, 0xfffe), Answer::Lock(false));
        assert_eq!(read(OS_LOCK_STATUS, true, 0), Answer::Value(0b1010));
        assert_eq!(read(OS_LOCK_STATUS, false, 0), Answer::Value(0b1000));
        assert_eq!(read(OS_LOCK, false, 0), Answer::Undefined);
        assert_eq!(write(OS_LOCK_STATUS, 0), Answer::Undefined);
    }

    #[test]
    fn physical_counter_is_the_hosts_and_cannot_be_written() {
        assert_eq!(read(PHYSICAL_COUNTER, false, 7), Answer::Value(7));
        assert_eq!(write(PHYSICAL_COUNTER, 7), Answer::Undefined);
    }

    #[test]
    fn other_registers_are_undefined() {
        for register in [
            encoding(3, 3, 9, 12, 0),  // PMCR_EL0
            encoding(3, 0, 12, 12, 5), // ICC_SRE_EL1
            encoding(3, 4, 1, 0, 0),   // SCTLR_EL2
            encoding(2, 3, 0, 1, 0),   // MDCCSR_EL0
            encoding(3, 0, 15, 0, 0),
        ] {
            assert_eq!(read(register, false, 0), Answer::Undefined, "{register:#x}");
            assert_eq!(write(register, 0), Answer::Undefined, "{register:#x}");
        }
    }
}
