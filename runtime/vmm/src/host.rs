//! What this host can do.

use supermachine_formats::snapshot::arch::x86_64::baseline::Register;
use supermachine_formats::snapshot::arch::{Baseline, Features};

use crate::hypervisor::{self, HypervisorError};

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
    let mut best = hypervisor::probe()?;
    for _ in 1..ATTEMPTS {
        if best.is_usable() {
            break;
        }
        best = best.min(hypervisor::probe()?);
    }
    Ok(best)
}

/// What tells this host's processor from others: maker, model and features, as CPUID gives them.
/// What is baked for [`Baseline::Host`] is for such a processor.
#[must_use]
pub fn processor() -> Vec<u32> {
    use Register::{Eax, Ebx, Ecx, Edx};
    // Of leaf 1 a register is left out that tells which of the processors this is.
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
        registers.iter().map(move |register| hypervisor::processor_word(function, index, *register))
    };
    WORDS.into_iter().flat_map(words).collect()
}

/// The features of a baseline that this host's processor lacks, or its operating system has
/// not switched on. Nothing for [`Baseline::Host`].
#[must_use]
pub fn missing_features(baseline: Baseline) -> Features {
    Features::missing(&baseline.required(), hypervisor::processor_word)
}
