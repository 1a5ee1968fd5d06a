//! What this host can do.

use supermachine_formats::snapshot::Architecture;
use supermachine_formats::snapshot::arch::{Baseline, Features};

use crate::arch;
use crate::backend::{self, HypervisorError};
use crate::os::{self, DeviceFile};

pub use crate::backend::{ONE_MACHINE_PER_PROCESS, Speed};

/// How often to probe a host that seems slow. A busy host may suspend a guest for longer than the
/// probe's own instructions take.
const ATTEMPTS: usize = 5;

/// Runs a few guest instructions, and returns the best speed of some attempts. That a hypervisor
/// opens proves nothing.
///
/// # Errors
/// There is no hypervisor, this process may not open it, or it does not run the instructions.
pub fn probe() -> Result<Speed, HypervisorError> {
    let mut best = backend::probe()?;
    for _ in 1..ATTEMPTS {
        if best.is_usable() {
            break;
        }
        best = best.min(backend::probe()?);
    }
    Ok(best)
}

/// This host's architecture, which is that of its guests.
#[must_use]
pub fn architecture() -> Architecture {
    arch::host::ARCHITECTURE
}

/// Identifies this host's processor by vendor, model and features. A snapshot that is baked for
/// [`Baseline::Host`] needs a processor with the same words.
#[must_use]
pub fn processor() -> Vec<u32> {
    arch::host::identity()
}

/// The features of a baseline that this host's processor lacks, or that its operating system has
/// not enabled. Empty for [`Baseline::Host`].
#[must_use]
pub fn missing_features(baseline: Baseline) -> Features {
    arch::host::missing_features(baseline)
}

/// Opens every file of the host that machines use: the hypervisor, this process's page map, and
/// the source of page faults. From then on, the machines of this process open no path. For a
/// process that loses its file system before it restores one.
pub fn open_ahead() {
    os::open_ahead();
    backend::device().into_iter().for_each(DeviceFile::open_ahead);
}
