//! An arm64 processor. No backend runs guests on it yet.

use supermachine_formats::snapshot::Architecture;
use supermachine_formats::snapshot::arch::{Baseline, Features};

/// The architecture.
pub(crate) const ARCHITECTURE: Architecture = Architecture::Aarch64;

/// The words that tell this processor's model from others.
pub(crate) fn identity() -> Vec<u32> {
    Vec::new()
}

/// The features of a baseline that this processor lacks.
pub(crate) fn missing_features(baseline: Baseline) -> Features {
    Features::missing(&baseline.required(), |_, _, _| 0)
}
