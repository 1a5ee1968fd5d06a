//! The processor that guests of a named baseline see: the same on every host.
//!
//! `formats/SPEC.md` gives the reason for each choice. Everything here is constant. The backend
//! fills in the vCPU's place in the topology.

use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::arch::x86_64::CpuidLeaf;
use supermachine_formats::snapshot::arch::x86_64::baseline::Register;

/// The answer with KVM's paravirtual features.
pub(crate) const KVM_CPUID_FEATURES: u32 = 0x4000_0001;

/// The answer that names the hypervisor.
const KVM_CPUID_SIGNATURE: u32 = 0x4000_0000;

// Bits of KVM's paravirtual features.
const CLOCKSOURCE: u32 = 1 << 0;
const NOP_IO_DELAY: u32 = 1 << 1;
const CLOCKSOURCE2: u32 = 1 << 3;
const PV_EOI: u32 = 1 << 6;
const CLOCKSOURCE_STABLE: u32 = 1 << 24;

const LAST: u32 = 0xd;
const EXTENDED: u32 = 0x8000_0000;
const LAST_EXTENDED: u32 = 0x8000_001e;

/// `AuthenticAMD`, in EBX, EDX, ECX.
const VENDOR: [u32; 3] = [0x6874_7541, 0x6974_6e65, 0x444d_4163];
/// Family 17h, model 31h, stepping 0.
const SIGNATURE: u32 = 0x0083_0f10;
/// `KVMKVMKVM`, in EBX, ECX, EDX.
const HYPERVISOR: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];

/// Eight times eight bytes are flushed at once.
const FLUSHED_LINE: u32 = 8 << 8;
/// 48 bits of virtual and 40 of physical addresses.
const ADDRESS_BITS: u32 = (48 << 8) | 40;
/// Bits that this vendor's processors repeat from leaf 1's EDX.
const REPEATED: u32 = 0x0183_f3ff;

/// Sizes of the XSAVE area with its header, and of what AVX adds.
const LEGACY_AREA: u32 = 576;
const AVX_AREA: u32 = 256;

/// Every leaf but the features. In function 0xd, only where there is XSAVE.
const ANSWERS: &[(u32, Option<u32>, [u32; 4])] = &[
    (0, None, [LAST, VENDOR[0], VENDOR[2], VENDOR[1]]),
    (1, None, [SIGNATURE, FLUSHED_LINE, 0, 0]),
    (6, None, [0; 4]),
    (7, Some(0), [0; 4]),
    (0xb, Some(0), [0; 4]),
    (0xb, Some(1), [0; 4]),
    // EBX follows what the guest has enabled and is the kernel's to fill in.
    (0xd, Some(0), [0, LEGACY_AREA, LEGACY_AREA + AVX_AREA, 0]),
    (0xd, Some(1), [0; 4]),
    (0xd, Some(2), [AVX_AREA, LEGACY_AREA, 0, 0]),
    (KVM_CPUID_SIGNATURE, None, [KVM_CPUID_FEATURES, HYPERVISOR[0], HYPERVISOR[1], HYPERVISOR[2]]),
    (KVM_CPUID_FEATURES, None, [PARAVIRTUAL, 0, 0, 0]),
    (EXTENDED, None, [LAST_EXTENDED, VENDOR[0], VENDOR[2], VENDOR[1]]),
    (0x8000_0001, None, [SIGNATURE, 0, 0, 0]),
    // L1 TLBs of 64 entries; L1 caches of 32 KiB, 8 ways, lines of 64 bytes.
    (0x8000_0005, None, [0xff40_ff40, 0xff40_ff40, 0x2008_0140, 0x2008_0140]),
    // L2 TLBs of 1024 and 2048 entries; L2 of 512 KiB, 8 ways; L3 of 16 MiB, 16 ways.
    (0x8000_0006, None, [0x4800_6400, 0x6800_6400, 0x0200_6140, 0x0080_8140]),
    (0x8000_0007, None, [0; 4]),
    (0x8000_0008, None, [ADDRESS_BITS, 0, 0, 0]),
    // Kind and level, then ways and line size, then sets less one: L1d, L1i, L2, L3.
    (0x8000_001d, Some(0), [0x0121, 0x01c0_003f, 63, 0]),
    (0x8000_001d, Some(1), [0x0122, 0x01c0_003f, 63, 0]),
    (0x8000_001d, Some(2), [0x0143, 0x01c0_003f, 1023, 2]),
    (0x8000_001d, Some(3), [0x0163, 0x03c0_003f, 16383, 1]),
    (0x8000_001d, Some(4), [0; 4]),
    (0x8000_001e, None, [0; 4]),
];

/// KVM's paravirtual features for a guest. Of those that register memory, only the clock and the
/// end of an interrupt, and none that needs a hypercall, whose instruction depends on the vendor.
const PARAVIRTUAL: u32 = CLOCKSOURCE | NOP_IO_DELAY | CLOCKSOURCE2 | PV_EOI | CLOCKSOURCE_STABLE;

/// The CPUID, without the vCPU's place in the topology.
pub(crate) fn answers(baseline: Baseline) -> Vec<CpuidLeaf> {
    let shown = baseline.shown();
    let has_xsave = shown.iter().any(|word| word.function == 0xd);
    let mut leaves: Vec<CpuidLeaf> = ANSWERS
        .iter()
        .filter(|(function, ..)| *function != 0xd || has_xsave)
        .map(|(function, index, [eax, ebx, ecx, edx])| CpuidLeaf {
            function: *function,
            index: index.unwrap_or(0),
            indexed: index.is_some(),
            eax: *eax,
            ebx: *ebx,
            ecx: *ecx,
            edx: *edx,
        })
        .collect();
    leaves.extend(brand(baseline));
    leaves.sort_by_key(|leaf| (leaf.function, leaf.index));
    for word in shown {
        for leaf in &mut leaves {
            if (leaf.function, leaf.index) == (word.function, word.index) {
                *leaf.register_mut(word.register) |= word.mask;
            }
            if (leaf.function, word.function, word.register) == (0x8000_0001, 1, Register::Edx) {
                leaf.edx |= word.mask & REPEATED;
            }
        }
    }
    leaves
}

/// The processor's name: three answers of sixteen bytes.
fn brand(baseline: Baseline) -> impl Iterator<Item = CpuidLeaf> {
    let mut bytes = format!("supermachine {baseline}").into_bytes();
    bytes.resize(48, 0);
    let words: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|bytes| bytes.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte)))
        .collect();
    let answers: Vec<CpuidLeaf> = (0x8000_0002..)
        .zip(words.chunks_exact(4))
        .map(|(function, words)| {
            let word = |at: usize| words.get(at).copied().unwrap_or(0);
            let (eax, ebx, ecx, edx) = (word(0), word(1), word(2), word(3));
            CpuidLeaf { function, index: 0, indexed: false, eax, ebx, ecx, edx }
        })
        .collect();
    answers.into_iter()
}

#[cfg(test)]
mod tests {
    use supermachine_formats::snapshot::arch::Features;
    use supermachine_formats::snapshot::arch::x86_64::baseline::missing;

    use super::*;

    fn word(leaves: &[CpuidLeaf], function: u32, index: u32, register: Register) -> u32 {
        let leaf = leaves.iter().find(|leaf| (leaf.function, leaf.index) == (function, index));
        leaf.map_or(0, |leaf| leaf.register(register))
    }

    #[test]
    fn all_of_a_baseline_is_shown_and_nothing_else() {
        for baseline in [Baseline::V2, Baseline::V3] {
            let leaves = answers(baseline);
            let shown = |function, index, register| word(&leaves, function, index, register);
            assert_eq!(missing(&baseline.shown(), shown), Features::default());
            for feature in baseline.shown() {
                let (function, index, register) =
                    (feature.function, feature.index, feature.register);
                let mut outside = shown(function, index, register) & !feature.mask;
                if (function, register) == (0x8000_0001, Register::Edx) {
                    outside &= !REPEATED;
                }
                assert_eq!(outside, 0, "{function:#x}.{index} {register:?}");
            }
        }
        // Feature words that no baseline has are empty.
        let leaves = answers(Baseline::V3);
        for (function, register) in [
            (6, Register::Ecx),
            (7, Register::Ecx),
            (7, Register::Edx),
            (0x8000_0007, Register::Edx),
            (0x8000_0008, Register::Ebx),
            (0x8000_0021, Register::Eax),
            (0xa, Register::Eax),
        ] {
            assert_eq!(word(&leaves, function, 0, register), 0, "{function:#x} {register:?}");
        }
    }

    #[test]
    fn extended_state_has_the_size_of_what_is_shown() {
        let leaves = answers(Baseline::V3);
        assert_eq!(word(&leaves, 0xd, 0, Register::Eax), 7);
        assert_eq!(word(&leaves, 0xd, 0, Register::Ecx), 832);
        assert!(answers(Baseline::V2).iter().all(|leaf| leaf.function != 0xd));
    }

    #[test]
    fn vendor_and_brand_are_texts() {
        let text = |words: &[u32]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            String::from_utf8(bytes).unwrap().trim_end_matches('\0').to_owned()
        };
        let leaves = answers(Baseline::V3);
        for function in [0, EXTENDED] {
            let vendor = [Register::Ebx, Register::Edx, Register::Ecx]
                .map(|register| word(&leaves, function, 0, register));
            assert_eq!(text(&vendor), "AuthenticAMD");
        }
        let signature = [Register::Ebx, Register::Ecx, Register::Edx]
            .map(|register| word(&leaves, KVM_CPUID_SIGNATURE, 0, register));
        assert_eq!(text(&signature), "KVMKVMKVM");
        let brand: Vec<u32> = (0x8000_0002..=0x8000_0004)
            .flat_map(|function| {
                [Register::Eax, Register::Ebx, Register::Ecx, Register::Edx]
                    .map(|register| word(&leaves, function, 0, register))
            })
            .collect();
        assert_eq!(text(&brand), "supermachine x86-64-v3");
    }

    #[test]
    fn caches_have_the_sizes_that_both_answers_tell() {
        let leaves = answers(Baseline::V3);
        for (index, size) in [(0, 32 << 10), (1, 32 << 10), (2, 512 << 10), (3, 16 << 20)] {
            let shape = word(&leaves, 0x8000_001d, index, Register::Ebx);
            let (ways, line) = ((shape >> 22) + 1, (shape & 0xfff) + 1);
            let sets = word(&leaves, 0x8000_001d, index, Register::Ecx) + 1;
            assert_eq!(ways * line * sets, size);
        }
        assert_eq!(word(&leaves, 0x8000_0005, 0, Register::Ecx) >> 24, 32);
        assert_eq!(word(&leaves, 0x8000_0006, 0, Register::Ecx) >> 16, 512);
        assert_eq!(word(&leaves, 0x8000_0006, 0, Register::Edx) >> 18, 32);
    }
}
