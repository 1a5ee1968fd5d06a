//! The names that macOS has for features, by `sysctl`.
//!
//! Each stands for a value of a field of an identification register. What guests can use is known to
//! the hypervisor only, which checks again.

use std::ffi::CStr;

use supermachine_formats::snapshot::arch::aarch64::Processor;
use supermachine_formats::snapshot::arch::aarch64::processor::{ISAR0, ISAR1, PFR0};
use supermachine_formats::snapshot::arch::{Baseline, Features};

/// The registers whose fields have names.
pub(crate) const NAMED: [u16; 3] = [PFR0, ISAR0, ISAR1];

/// A register, the lowest bit of a field, the field's value, and the feature that it stands for.
type Feature = (u16, u32, u64, &'static CStr);

/// The features. The greater value of a field comes later.
const FEATURES: [Feature; 25] = [
    (PFR0, 16, 1, c"hw.optional.arm.FEAT_FP16"),
    (PFR0, 20, 1, c"hw.optional.arm.FEAT_FP16"),
    (PFR0, 48, 1, c"hw.optional.arm.FEAT_DIT"),
    (ISAR0, 4, 1, c"hw.optional.arm.FEAT_AES"),
    (ISAR0, 4, 2, c"hw.optional.arm.FEAT_PMULL"),
    (ISAR0, 8, 1, c"hw.optional.arm.FEAT_SHA1"),
    (ISAR0, 12, 1, c"hw.optional.arm.FEAT_SHA256"),
    (ISAR0, 12, 2, c"hw.optional.arm.FEAT_SHA512"),
    (ISAR0, 16, 1, c"hw.optional.armv8_crc32"),
    (ISAR0, 20, 2, c"hw.optional.arm.FEAT_LSE"),
    (ISAR0, 28, 1, c"hw.optional.arm.FEAT_RDM"),
    (ISAR0, 32, 1, c"hw.optional.arm.FEAT_SHA3"),
    (ISAR0, 44, 1, c"hw.optional.arm.FEAT_DotProd"),
    (ISAR0, 48, 1, c"hw.optional.arm.FEAT_FHM"),
    (ISAR0, 52, 1, c"hw.optional.arm.FEAT_FlagM"),
    (ISAR0, 52, 2, c"hw.optional.arm.FEAT_FlagM2"),
    (ISAR1, 0, 1, c"hw.optional.arm.FEAT_DPB"),
    (ISAR1, 0, 2, c"hw.optional.arm.FEAT_DPB2"),
    (ISAR1, 12, 1, c"hw.optional.arm.FEAT_JSCVT"),
    (ISAR1, 16, 1, c"hw.optional.arm.FEAT_FCMA"),
    (ISAR1, 20, 1, c"hw.optional.arm.FEAT_LRCPC"),
    (ISAR1, 20, 2, c"hw.optional.arm.FEAT_LRCPC2"),
    (ISAR1, 32, 1, c"hw.optional.arm.FEAT_FRINTTS"),
    (ISAR1, 36, 1, c"hw.optional.arm.FEAT_SB"),
    (ISAR1, 44, 1, c"hw.optional.arm.FEAT_BF16"),
];

/// PFR0.EL0 and PFR0.EL1: programs of 64 bits.
const LEVELS: u64 = 0x11;

/// The features of a baseline that a processor lacks, as far as they have names.
pub(crate) fn missing(baseline: Baseline, has: impl Fn(&CStr) -> bool) -> Features {
    let wanted = baseline.id_registers();
    Processor::of(baseline).missing(|register| {
        if NAMED.contains(&register) {
            return Some(value(register, &has));
        }
        wanted.iter().find(|own| own.encoding == register).map(|own| own.value)
    })
}

/// An identification register of a processor with these features.
pub(crate) fn value(register: u16, has: impl Fn(&CStr) -> bool) -> u64 {
    let start = if register == PFR0 { LEVELS } else { 0 };
    let own = FEATURES.iter().filter(|(own, _, _, name)| *own == register && has(name));
    own.fold(start, |value, (_, shift, field, _)| (value & !(0xf << shift)) | field << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_with_every_feature_has_both_baselines() {
        for baseline in [Baseline::Armv8_2, Baseline::AppleM1] {
            assert_eq!(missing(baseline, |_| true).to_string(), "", "{baseline}");
        }
    }

    #[test]
    fn missing_feature_is_named() {
        let without =
            |lacking: &'static CStr| missing(Baseline::AppleM1, move |name| name != lacking);
        let sha512 = without(c"hw.optional.arm.FEAT_SHA512");
        assert_eq!(sha512.to_string(), "ISAR0.SHA2 2 (host has 1)");
        let sha3 = without(c"hw.optional.arm.FEAT_SHA3");
        assert_eq!(sha3.to_string(), "ISAR0.SHA3 1 (host has 0)");
    }
}
