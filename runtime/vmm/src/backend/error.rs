//! Why a backend failed.

use std::io;
use std::path::PathBuf;

use supermachine_formats::snapshot::arch::{Baseline, Features};

/// Why a hypervisor did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HypervisorError {
    /// The hypervisor's device does not exist: the hardware lacks support, or it is disabled.
    #[error("no hypervisor at {path}; `supermachine doctor` shows what this host lacks")]
    Missing {
        /// The device's path.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// This process may not open the hypervisor's device.
    #[error("no permission to open {path}; add the user to the group that owns it")]
    Permission {
        /// The device's path.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// This build has no backend for the platform.
    #[error("no hypervisor backend for this operating system and processor")]
    Unsupported,
    /// The hypervisor lacks something that every machine needs.
    #[error("hypervisor lacks {capability}")]
    Capability {
        /// What it lacks.
        capability: &'static str,
    },
    /// The hypervisor does not offer guests all of a baseline.
    #[error("hypervisor offers guests no {missing}, which {baseline} has")]
    Features {
        /// The baseline.
        baseline: Baseline,
        /// The features that it does not offer.
        missing: Features,
    },
    /// The time-stamp counter has another rate, and the hypervisor cannot scale it.
    #[error(
        "snapshot's time-stamp counter runs at {snapshot_khz} kHz, this host's at {host_khz} kHz, and the hypervisor cannot scale it"
    )]
    TscRate {
        /// The rate when the snapshot was taken.
        snapshot_khz: u32,
        /// This host's rate.
        host_khz: u32,
    },
    /// A state for a processor in use does not overwrite all of it.
    #[error("state covers only a part of a processor")]
    PartialState,
    /// A call failed.
    #[error("hypervisor call {call} failed")]
    Call {
        /// The call's name.
        call: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// This host does not accept a system register of the snapshot.
    #[error("host refuses system register {name}")]
    Register {
        /// The register, as assemblers name it.
        name: String,
    },
    /// This host does not accept a model-specific register of the snapshot.
    #[error("host refuses model-specific register {index:#x}")]
    Msr {
        /// The register's number.
        index: u32,
    },
}
