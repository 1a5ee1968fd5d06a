//! The features of x86_64's CPU baselines, and their names.
//!
//! Features that the hypervisor provides by itself are shown but not required of the processor.
//! This module owns names and sets; the hypervisor backend builds a guest's CPUID from them.
//!
//! Invariant: [`Baseline::required`] is a subset of [`Baseline::shown`], and each baseline shows
//! everything that the one below it shows.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::record::{byte_enum, record};
use crate::snapshot::arch::{Baseline, Features};

byte_enum! {
    /// An output register of the CPUID instruction.
    #[derive(PartialOrd, Ord)]
    pub enum Register {
        /// EAX.
        Eax = 0,
        /// EBX.
        Ebx = 1,
        /// ECX.
        Ecx = 2,
        /// EDX.
        Edx = 3,
    }
}

record! {
    /// What a snapshot requires of the host's processor.
    pub struct Processor {
        /// The baseline of its bake.
        baseline: Baseline,
        /// The features that the processor must have. Words rise by function, index and
        /// register, and no word is empty.
        features: Vec<FeatureWord>,
    }
}

record! {
    /// Feature bits in one output register of one CPUID leaf.
    #[derive(Copy)]
    pub struct FeatureWord {
        /// The input EAX.
        function: u32,
        /// The input ECX.
        index: u32,
        /// The output register.
        register: Register,
        /// The feature bits.
        mask: u32,
    }
}

/// The most words in a snapshot's list of features.
pub const MAX_FEATURE_WORDS: usize = 64;

/// The features of x86-64-v2.
const V2: &str = "fpu de pse tsc msr pae cx8 apic sep mtrr pge cmov pat pse36 clflush mmx fxsr \
                  sse sse2 syscall nx lm pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm";

/// The features that x86-64-v3 adds.
const V3: &str = "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave xsaveopt x87_state sse_state \
                  avx_state aes pclmulqdq rdrand fsgsbase smep rdtscp";

/// Features that hypervisors provide on every processor.
const PROVIDED: &str = "x2apic tsc_deadline_timer hypervisor tsc_adjust arat topoext";

/// Bits that do not describe the processor's model: they depend on the guest's actions or the
/// machine's shape, or state that something is absent.
const NO_FEATURES: &str = "osxsave ospke ht cmp_legacy fdp_excptn_only zero_fcs_fds";

/// Feature names of `/proc/cpuinfo`, from bit 0 upwards; `-` has no name.
const NAMES: &[(u32, u32, Register, &str)] = &[
    (
        1,
        0,
        Register::Ecx,
        "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm \
         - pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx \
         f16c rdrand hypervisor",
    ),
    (
        1,
        0,
        Register::Edx,
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - \
         dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
    ),
    (6, 0, Register::Eax, "dtherm ida arat"),
    (
        7,
        0,
        Register::Ebx,
        "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm \
         zero_fcs_fds mpx rdt_a avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt \
         clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl",
    ),
    (
        7,
        0,
        Register::Ecx,
        "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq \
         avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid - \
         bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc pks",
    ),
    (
        7,
        0,
        Register::Edx,
        "- sgx_keys avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect \
         srbds_ctrl md_clear rtm_always_abort - tsx_force_abort serialize hybrid_cpu tsxldtrk - \
         pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp \
         flush_l1d arch_capabilities core_capabilities spec_ctrl_ssbd",
    ),
    (
        7,
        1,
        Register::Eax,
        "sha512 sm3 sm4 - avx_vnni avx512_bf16 lass cmpccxadd arch_perfmon_ext - fzrm fsrs fsrc \
         - - - - fred lkgs wrmsrns - amx_fp16 - avx_ifma - - lam",
    ),
    (
        0xd,
        0,
        Register::Eax,
        "x87_state sse_state avx_state bndregs_state bndcsr_state \
         opmask_state zmm_hi256_state hi16_zmm_state - pkru_state",
    ),
    (0xd, 1, Register::Eax, "xsaveopt xsavec xgetbv1 xsaves xfd"),
    (
        0x8000_0001,
        0,
        Register::Ecx,
        "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs \
         xop skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext \
         ptsc perfctr_llc mwaitx",
    ),
    (
        0x8000_0001,
        0,
        Register::Edx,
        "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp \
         - lm 3dnowext 3dnow",
    ),
    (0x8000_0007, 0, Register::Edx, "- - - - - - - - constant_tsc"),
    (
        0x8000_0008,
        0,
        Register::Ebx,
        "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - amd_ibpb - amd_ibrs amd_stibp - \
         amd_stibp_always_on - - - - - amd_ppin amd_ssbd virt_ssbd ssb_no cppc amd_psfd btc_no \
         ibpb_ret",
    ),
    (
        0x8000_0021,
        0,
        Register::Eax,
        "no_nested_data_bp wrmsr_xx_base_ns lfence_rdtsc - - - null_sel_clr_base - autoibrs \
         no_smm_ctl_msr",
    ),
];

impl Baseline {
    /// Returns the features that the host's processor must have. Empty for [`Baseline::Host`],
    /// whose features are known only once a guest has run, and for other architectures.
    #[must_use]
    pub fn required(self) -> Vec<FeatureWord> {
        words(self.lists())
    }

    /// Returns the features that a guest sees: the required ones, and those that hypervisors
    /// provide. Empty for [`Baseline::Host`], whose guest sees the host's features, and for other
    /// architectures.
    #[must_use]
    pub fn shown(self) -> Vec<FeatureWord> {
        let lists = self.lists();
        let provided: &[&str] = if lists.is_empty() { &[] } else { &[PROVIDED] };
        words(&[lists, provided].concat())
    }

    fn lists(self) -> &'static [&'static str] {
        match self {
            Self::V2 => &[V2],
            Self::V3 => &[V2, V3],
            _ => &[],
        }
    }
}

impl Processor {
    /// Returns the requirements of a snapshot that was never run.
    #[must_use]
    pub fn of(baseline: Baseline) -> Self {
        Self { baseline, features: baseline.required() }
    }

    /// Records the features that a guest of [`Baseline::Host`] may have seen: those that it was
    /// shown and the processor has. A named baseline does not change.
    pub fn note(
        &mut self,
        shown: impl Fn(u32, u32, Register) -> u32,
        mut found: impl FnMut(u32, u32, Register) -> u32,
    ) {
        if self.baseline != Baseline::Host || !self.features.is_empty() {
            return;
        }
        let excluded = words(&[PROVIDED, NO_FEATURES]);
        let word = |(function, index, register, names): &(u32, u32, Register, &str)| {
            let (function, index, register) = (*function, *index, *register);
            // Some vendors repeat the bits of another leaf in this one.
            let repeats = (function, register) == (0x8000_0001, Register::Edx);
            let known = (0..u32::BITS).zip(names.split(' ')).filter(|(_, name)| *name != "-");
            let known = known.fold(0, |mask, (bit, _)| mask | 1 << bit);
            let position = (function, index, register);
            let excluded = excluded.iter().find(|word| word.position() == position);
            let mask = shown(function, index, register)
                & found(function, index, register)
                & if repeats { known } else { u32::MAX }
                & !excluded.map_or(0, |word| word.mask);
            FeatureWord { function, index, register, mask }
        };
        self.features = NAMES.iter().map(word).filter(|word| word.mask != 0).collect();
    }

    /// Whether the list of features is well-formed.
    pub(super) fn is_valid(&self) -> bool {
        let rises = |pair: &[FeatureWord]| match pair {
            [one, two] => one.position() < two.position(),
            _ => true,
        };
        self.features.len() <= MAX_FEATURE_WORDS
            && self.features.iter().all(|word| word.mask != 0)
            && self.features.windows(2).all(rises)
    }
}

impl FeatureWord {
    /// Returns the names of the features; an unnamed one is shown by its position.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let row = NAMES.iter().find(|(f, i, r, _)| (*f, *i, *r) == self.position());
        let name_of = |bit: u32| {
            let name = row.and_then(|(.., names)| names.split(' ').nth(bit as usize));
            name.filter(|name| *name != "-").map_or_else(
                || {
                    let Self { function, index, register, .. } = self;
                    let register = format!("{register:?}").to_lowercase();
                    format!("cpuid({function:#x},{index}).{register}[{bit}]")
                },
                ToString::to_string,
            )
        };
        (0..u32::BITS).filter(|bit| self.mask >> bit & 1 == 1).map(name_of).collect()
    }

    fn position(&self) -> (u32, u32, Register) {
        (self.function, self.index, self.register)
    }
}

/// Returns the features of `wanted` that the registers, as read by `found`, lack.
pub fn missing(
    wanted: &[FeatureWord],
    mut found: impl FnMut(u32, u32, Register) -> u32,
) -> Features {
    let lacking = wanted.iter().map(|word| {
        let mask = word.mask & !found(word.function, word.index, word.register);
        FeatureWord { mask, ..*word }
    });
    Features(lacking.flat_map(|word| word.names()).collect())
}

/// Returns the words of all features in the lists of names.
fn words(lists: &[&str]) -> Vec<FeatureWord> {
    let is_wanted = |name: &str| lists.iter().any(|list| list.split(' ').any(|n| n == name));
    let word = |(function, index, register, names): &(u32, u32, Register, &str)| {
        let bits = (0..u32::BITS).zip(names.split(' '));
        let mask =
            bits.filter(|(_, name)| is_wanted(name)).fold(0, |mask, (bit, _)| mask | 1 << bit);
        FeatureWord { function: *function, index: *index, register: *register, mask }
    };
    NAMES.iter().map(word).filter(|word| word.mask != 0).collect()
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use super::*;

    fn names(words: &[FeatureWord]) -> BTreeSet<String> {
        words.iter().flat_map(FeatureWord::names).collect()
    }

    fn bit(words: &[FeatureWord], function: u32, index: u32, register: Register, bit: u32) -> bool {
        words.iter().any(|word| {
            (word.function, word.index, word.register) == (function, index, register)
                && word.mask >> bit & 1 == 1
        })
    }

    #[test]
    fn names_are_unique_and_rows_rise() {
        let mut seen = BTreeSet::new();
        for (.., row) in NAMES {
            assert!(row.split(' ').count() <= 32, "{row}");
            for name in row.split(' ').filter(|name| *name != "-") {
                assert!(seen.insert(name), "{name} twice");
            }
        }
        let position = |(f, i, r, _): &(u32, u32, Register, &str)| (*f, *i, *r);
        assert!(NAMES.windows(2).all(|pair| position(&pair[0]) < position(&pair[1])));
    }

    #[test]
    fn every_name_of_a_baseline_has_a_bit() {
        for list in [V2, V3, PROVIDED] {
            let wanted: BTreeSet<String> = list.split(' ').map(ToString::to_string).collect();
            assert_eq!(names(&words(&[list])), wanted);
        }
    }

    /// Takes bits from the processor manuals, not from this module's table.
    #[test]
    fn levels_of_the_psabi_are_within_the_baselines() {
        let (v2, v3) = (Baseline::V2.required(), Baseline::V3.required());
        // CMPXCHG16B, LAHF, POPCNT, SSE3, SSE4.1, SSE4.2, SSSE3.
        for at in [13, 23, 0, 19, 20, 9] {
            assert!(bit(&v2, 1, 0, Register::Ecx, at), "{at}");
        }
        assert!(bit(&v2, 0x8000_0001, 0, Register::Ecx, 0));
        // CMOV, CX8, FPU, FXSR, MMX, SCE, SSE, SSE2.
        for at in [15, 8, 0, 24, 23, 25, 26] {
            assert!(bit(&v2, 1, 0, Register::Edx, at), "{at}");
        }
        assert!(bit(&v2, 0x8000_0001, 0, Register::Edx, 11));
        // AVX, F16C, FMA, MOVBE, XSAVE.
        for at in [28, 29, 12, 22, 26] {
            assert!(bit(&v3, 1, 0, Register::Ecx, at) && !bit(&v2, 1, 0, Register::Ecx, at));
        }
        // AVX2, BMI1, BMI2.
        for at in [5, 3, 8] {
            assert!(bit(&v3, 7, 0, Register::Ebx, at) && !bit(&v2, 7, 0, Register::Ebx, at));
        }
        // LZCNT, and the state that the operating system must have enabled.
        assert!(bit(&v3, 0x8000_0001, 0, Register::Ecx, 5));
        assert!((0..3).all(|at| bit(&v3, 0xd, 0, Register::Eax, at)));
        assert!((3..32).all(|at| !bit(&v3, 0xd, 0, Register::Eax, at)));
    }

    #[test]
    fn each_baseline_shows_its_requirements_and_the_one_below() {
        for baseline in [Baseline::V2, Baseline::V3, Baseline::Host] {
            assert!(names(&baseline.shown()).is_superset(&names(&baseline.required())));
        }
        assert!(names(&Baseline::V3.shown()).is_superset(&names(&Baseline::V2.shown())));
        assert!(Baseline::Host.shown().is_empty());
    }

    #[test]
    fn features_that_vary_within_a_baseline_are_not_shown() {
        let shown = names(&Baseline::V3.shown());
        for name in [
            "pcid",
            "invpcid",
            "smap",
            "erms",
            "rdseed",
            "adx",
            "pdpe1gb",
            "constant_tsc",
            "xsavec",
            "xsaves",
            "svm",
            "vmx",
            "avx512f",
            "spec_ctrl",
        ] {
            assert!(!shown.contains(name), "{name}");
        }
    }

    #[test]
    fn unnamed_feature_is_shown_by_its_position() {
        let word = FeatureWord { function: 7, index: 2, register: Register::Edx, mask: 1 << 3 };
        assert_eq!(word.names(), ["cpuid(0x7,2).edx[3]"]);
        let word = FeatureWord { function: 7, index: 0, register: Register::Ebx, mask: 0x120 };
        assert_eq!(word.names(), ["avx2", "bmi2"]);
    }

    #[test]
    fn missing_features_are_named() {
        let wanted = Baseline::V3.required();
        let lacking = missing(&wanted, |function, _, register| {
            if (function, register) == (7, Register::Ebx) { !0x120 } else { u32::MAX }
        });
        assert_eq!(lacking.to_string(), "avx2, bmi2");
        assert_eq!(missing(&wanted, |_, _, _| u32::MAX), Features::default());
    }

    #[test]
    fn host_snapshot_records_features_shown_and_present() {
        let mut processor = Processor::of(Baseline::Host);
        let shown = |function, _, register| match (function, register) {
            (7, Register::Ebx) => 0x128,
            (1, Register::Ecx) => (1 << 27) | (1 << 21) | (1 << 20) | 1,
            (0x8000_0001, Register::Edx) => (1 << 29) | 1,
            _ => 0,
        };
        let found = |function, _, _| if function == 7 { 0x108 } else { u32::MAX };
        processor.note(shown, found);
        let noted = missing(&processor.features, |_, _, _| 0);
        assert_eq!(noted.to_string(), "pni, sse4_2, bmi1, bmi2, lm");
        assert!(processor.is_valid());
        // Only the first guest counts, and a named baseline never changes.
        let noted = processor.clone();
        processor.note(|_, _, _| u32::MAX, |_, _, _| u32::MAX);
        assert_eq!(processor, noted);
        let mut named = Processor::of(Baseline::V3);
        named.note(|_, _, _| u32::MAX, |_, _, _| u32::MAX);
        assert_eq!(named, Processor::of(Baseline::V3));
    }
}
