//! What the host's own CPUID instruction answers.
//!
//! Inside another hypervisor each CPUID instruction is an exit, so an answer is asked for once
//! in a process. The one lock guards the answers so far and is held while one is asked for.

use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::{Mutex, PoisonError};

use supermachine_formats::snapshot::arch::x86_64::CpuidLeaf;
use supermachine_formats::snapshot::arch::x86_64::baseline::Register;

/// The first of the second range of answers; the other begins with 0.
const EXTENDED: u32 = 0x8000_0000;
const OSXSAVE: u32 = 1 << 27;

static ANSWERS: Mutex<Vec<CpuidLeaf>> = Mutex::new(Vec::new());

/// One register of an answer; zero where the processor has no such answer. The parts of the
/// extended state are those that the operating system has switched on.
pub(crate) fn processor_word(function: u32, index: u32, register: Register) -> u32 {
    let last = answer(function & EXTENDED, 0).eax;
    if function > last {
        return 0;
    }
    let word = answer(function, index).register(register);
    match (function, index, register) {
        (0xd, 0, Register::Eax) => word & enabled_state(),
        _ => word,
    }
}

fn answer(function: u32, index: u32) -> CpuidLeaf {
    let mut answers = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner);
    let known = answers.iter().find(|leaf| (leaf.function, leaf.index) == (function, index));
    if let Some(leaf) = known {
        return leaf.clone();
    }
    let result = __cpuid_count(function, index);
    let leaf = CpuidLeaf {
        function,
        index,
        indexed: true,
        eax: result.eax,
        ebx: result.ebx,
        ecx: result.ecx,
        edx: result.edx,
    };
    answers.push(leaf.clone());
    leaf
}

/// The parts of the extended state that programs may use.
fn enabled_state() -> u32 {
    if answer(1, 0).ecx & OSXSAVE == 0 {
        return 0;
    }
    // SAFETY: the instruction needs CR4.OSXSAVE, which CPUID just told is set, and register 0
    // exists wherever it is.
    unsafe { xcr0() as u32 }
}

#[target_feature(enable = "xsave")]
fn xcr0() -> u64 {
    // SAFETY: register 0 exists wherever the instruction does, which this function asks for.
    unsafe { _xgetbv(0) }
}

#[cfg(test)]
mod tests {
    use supermachine_formats::snapshot::arch::Baseline;

    use super::*;

    #[test]
    fn the_processor_has_what_the_standard_library_found() {
        let word = |function, register| processor_word(function, 0, register);
        let found = std::arch::is_x86_feature_detected!("avx2");
        assert_eq!(word(7, Register::Ebx) >> 5 & 1 == 1, found);
        assert_eq!(word(0xd, Register::Eax) >> 2 & 1 == 1, is_x86_feature_detected!("avx"));
        assert_eq!(word(0x8000_0001, Register::Edx) >> 29 & 1, 1);
    }

    #[test]
    fn an_answer_past_the_last_is_zero() {
        assert_eq!(processor_word(0x7fff_ffff, 0, Register::Eax), 0);
        assert_eq!(processor_word(0xffff_ffff, 0, Register::Eax), 0);
    }

    /// Whatever runs these tests is at least of this level.
    #[test]
    fn this_host_has_the_lowest_baseline() {
        let missing = crate::host::missing_features(Baseline::V2);
        assert_eq!(missing.to_string(), "");
    }
}
