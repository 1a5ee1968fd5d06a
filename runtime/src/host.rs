//! What this host can do.

use supermachine_formats::snapshot::baseline::{Baseline, Features};

use crate::machine::{self, HypervisorError};

/// How fast a guest's kernel runs on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// How often a host is tried that seems slow: one that is busy may leave a guest alone for longer
/// than what it runs takes.
const ATTEMPTS: usize = 5;

/// Runs a few guest instructions and times them: that a hypervisor opens proves nothing. What
/// counts is the fastest of some attempts.
///
/// # Errors
/// There is no hypervisor, it may not be opened, or it does not run the instructions.
pub fn probe() -> Result<Speed, HypervisorError> {
    let mut best = machine::probe()?;
    for _ in 1..ATTEMPTS {
        if best.is_usable() {
            break;
        }
        best = best.min(machine::probe()?);
    }
    Ok(best)
}

/// The features of a baseline that this host's processor lacks, or its operating system has
/// not switched on. Nothing for [`Baseline::Host`].
#[must_use]
pub fn missing_features(baseline: Baseline) -> Features {
    Features::missing(&baseline.required(), machine::processor_word)
}
