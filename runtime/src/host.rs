//! What this host can do.

use supermachine_formats::snapshot::baseline::{Baseline, Features};

use crate::machine::{self, HypervisorError};

/// How fast a guest's kernel runs on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speed {
    /// Picoseconds that two simple instructions take at the guest's highest privilege.
    pub picoseconds_per_iteration: u64,
}

impl Speed {
    /// Above this an iteration was interpreted, not run. Hardware needs under 3,000.
    const SLOW: u64 = 200_000;

    /// Whether guest kernels run on the processor itself, or near to that speed.
    #[must_use]
    pub fn is_usable(self) -> bool {
        self.picoseconds_per_iteration < Self::SLOW
    }
}

/// Runs a few guest instructions and times them: that a hypervisor opens proves nothing.
///
/// # Errors
/// There is no hypervisor, it may not be opened, or it does not run the instructions.
pub fn probe() -> Result<Speed, HypervisorError> {
    machine::probe()
}

/// The features of a baseline that this host's processor lacks, or its operating system has
/// not switched on. Nothing for [`Baseline::Host`].
#[must_use]
pub fn missing_features(baseline: Baseline) -> Features {
    Features::missing(&baseline.required(), machine::processor_word)
}
