//! Why a host cannot continue a snapshot.

use supermachine_formats::snapshot::arch::{Baseline, Features};

/// Why a host's processor cannot continue a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// It lacks features that the guest uses.
    Features { baseline: Baseline, missing: Features },
    /// The snapshot was made for `host`, by a processor of another vendor.
    Vendor { found: String, host: String },
    /// The guest's counter has another frequency, in Hz.
    CounterFrequency { found: u32, host: u32 },
}
