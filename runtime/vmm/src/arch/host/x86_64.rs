//! What this host's own CPUID instruction answers.
//!
//! Inside another hypervisor each CPUID instruction is an exit, so the process asks once for each
//! answer. The lock guards the cached answers and is held during the instruction.

use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::{Mutex, PoisonError};

use supermachine_formats::snapshot::Architecture;
use supermachine_formats::snapshot::arch::x86_64::CpuidLeaf;
use supermachine_formats::snapshot::arch::x86_64::baseline::{Register, missing};
use supermachine_formats::snapshot::arch::{Baseline, Features};

/// The first leaf of the second range; the first range starts at 0.
const EXTENDED: u32 = 0x8000_0000;
const OSXSAVE: u32 = 1 << 27;

/// The architecture.
pub(crate) const ARCHITECTURE: Architecture = Architecture::X86_64;

static ANSWERS: Mutex<Vec<CpuidLeaf>> = Mutex::new(Vec::new());

/// One register of a CPUID leaf; zero if the processor has no such leaf. Shows only those parts of
/// the extended state that the operating system has enabled.
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
    // SAFETY: the instruction needs CR4.OSXSAVE, which CPUID has just reported as set, and register 0
    // exists wherever it is.
    unsafe { xcr0() as u32 }
}

#[target_feature(enable = "xsave")]
fn xcr0() -> u64 {
    // SAFETY: register 0 exists wherever the instruction does, which this function asks for.
    unsafe { _xgetbv(0) }
}

/// The words that tell this processor from others: vendor, model and features.
pub(crate) fn identity() -> Vec<u32> {
    use Register::{Eax, Ebx, Ecx, Edx};
    // EBX of leaf 1 holds the number of the core that answers.
    const WORDS: [(u32, u32, &[Register]); 8] = [
        (0, 0, &[Ebx, Ecx, Edx]),
        (1, 0, &[Eax, Ecx, Edx]),
        (7, 0, &[Ebx, Ecx, Edx]),
        (7, 1, &[Eax, Ebx, Ecx, Edx]),
        (0xD, 0, &[Eax]),
        (0xD, 1, &[Eax]),
        (0x8000_0001, 0, &[Ecx, Edx]),
        (0x8000_0008, 0, &[Eax, Ebx]),
    ];
    let words = |(function, index, registers): (u32, u32, &'static [Register])| {
        registers.iter().map(move |register| processor_word(function, index, *register))
    };
    WORDS.into_iter().flat_map(words).collect()
}

/// The features of a baseline that this processor lacks or its operating system has disabled.
pub(crate) fn missing_features(baseline: Baseline) -> Features {
    missing(&baseline.required(), processor_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_word_agrees_with_the_standard_library() {
        let word = |function, register| processor_word(function, 0, register);
        let found = std::arch::is_x86_feature_detected!("avx2");
        assert_eq!(word(7, Register::Ebx) >> 5 & 1 == 1, found);
        assert_eq!(word(0xd, Register::Eax) >> 2 & 1 == 1, is_x86_feature_detected!("avx"));
        assert_eq!(word(0x8000_0001, Register::Edx) >> 29 & 1, 1);
    }

    #[test]
    fn processor_word_past_the_last_leaf_is_zero() {
        assert_eq!(processor_word(0x7fff_ffff, 0, Register::Eax), 0);
        assert_eq!(processor_word(0xffff_ffff, 0, Register::Eax), 0);
    }

    /// Every host that runs these tests has this level.
    #[test]
    fn missing_features_of_lowest_baseline_are_none() {
        let missing = missing_features(Baseline::V2);
        assert_eq!(missing.to_string(), "");
    }
}
