//! What the kernel of Linux answers for the identification registers.
//!
//! It hides what programs cannot use. What guests can use is known to the hypervisor only, which
//! checks again.

use supermachine_formats::snapshot::arch::aarch64::Processor;
use supermachine_formats::snapshot::arch::aarch64::processor::{ISAR0, ISAR1, PFR0};
use supermachine_formats::snapshot::arch::{Baseline, Features};

/// The words that tell this processor's model from others: its name and its features.
pub(crate) fn identity() -> Vec<u32> {
    // The revision is the same model.
    let core = read!("midr_el1") & 0xff0f_fff0;
    let words =
        [core, read!("id_aa64pfr0_el1"), read!("id_aa64isar0_el1"), read!("id_aa64isar1_el1")];
    words.into_iter().flat_map(|word| [word as u32, (word >> 32) as u32]).collect()
}

/// The features of a baseline that this processor lacks, as far as programs use them.
pub(crate) fn missing_features(baseline: Baseline) -> Features {
    let wanted = baseline.id_registers();
    Processor::of(baseline).missing(|register| match register {
        PFR0 => Some(read!("id_aa64pfr0_el1")),
        ISAR0 => Some(read!("id_aa64isar0_el1")),
        ISAR1 => Some(read!("id_aa64isar1_el1")),
        _ => wanted.iter().find(|own| own.encoding == register).map(|own| own.value),
    })
}
