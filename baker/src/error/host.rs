//! What this host lacks for a bake.

use supermachine_formats::snapshot::Architecture;
use supermachine_formats::snapshot::arch::{Baseline, Features};
use supermachine_vmm::HypervisorError;

/// This host cannot bake the image; use another host, or install what this one lacks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The guest kernel or the agent is missing.
    #[error("guest kernel or agent cannot be used")]
    Assets {
        /// Why.
        source: supermachine_kernel::Error,
    },
    /// The host's processor lacks features of the requested baseline.
    #[error("this host's processor lacks {missing} of {baseline}; ask for {}", lower(*baseline))]
    Baseline {
        /// The requested baseline.
        baseline: Baseline,
        /// The missing features.
        missing: Features,
    },
    /// The requested baseline is one of another architecture.
    #[error("{baseline} is no baseline of {}; ask for {} or host", architecture.name(), Baseline::default_of(*architecture))]
    OtherBaseline {
        /// The requested baseline.
        baseline: Baseline,
        /// This host's architecture.
        architecture: Architecture,
    },
    /// The snapshot is not in the cache of builds, and this host cannot bake it.
    #[error(
        "this host cannot bake: {problem}; bake where KVM works, or set SUPERMACHINE_NO_BAKE=1 to build without snapshots"
    )]
    NoHypervisor {
        /// What it lacks.
        problem: &'static str,
        /// The hypervisor's error.
        source: Option<HypervisorError>,
    },
    /// A snapshot runs only on the architecture and system that it was baked on.
    #[error(
        "snapshots for {target} cannot be baked on {host}; bake them there and set SUPERMACHINE_PREBAKED to the folder of their packs"
    )]
    CrossBuild {
        /// The platform of the build.
        target: String,
        /// This host's platform.
        host: String,
    },
    /// The image is for a platform that guests here do not have.
    #[error("image is for {found}, guests here are {host}")]
    Platform {
        /// The image's platform.
        found: String,
        /// The guests' platform.
        host: String,
    },
}

/// The baselines to ask for instead.
fn lower(baseline: Baseline) -> &'static str {
    match baseline {
        Baseline::V3 => "x86-64-v2 or host (--cpu)",
        Baseline::AppleM1 => "armv8.2-a or host (--cpu)",
        Baseline::V2 | Baseline::Armv8_2 | Baseline::Host => "host (--cpu)",
    }
}
