//! The part of a snapshot that depends on the processor's architecture.
//!
//! Each architecture has a module of its own, which owns the state type, its sections in the
//! state file, and what its CPU baselines contain. The variant of [`ArchState`] is the header's
//! architecture. Code that serves every architecture names these types through this module; only
//! an architecture's own code names what is inside.

pub mod aarch64;
pub mod x86_64;

pub use super::baseline::{Baseline, Features, UnknownBaseline};

use super::container::{Builder, Container, Section, SnapshotError, inconsistent};
use super::machine::{Architecture, HypervisorFamily};

/// The state of a machine that is neither memory nor device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchState {
    /// Of an x86_64 machine.
    X86_64(x86_64::State),
    /// Of an arm64 machine.
    Aarch64(aarch64::State),
}

impl ArchState {
    /// Sets the host's wall clock at capture, in nanoseconds since 1970-01-01 UTC.
    pub fn set_realtime_ns(&mut self, ns: u64) {
        match self {
            Self::X86_64(state) => state.clock.realtime_ns = ns,
            Self::Aarch64(state) => state.counter.realtime_ns = ns,
        }
    }

    /// The state of an x86_64 machine, to modify it; `None` for any other.
    pub fn x86_64_mut(&mut self) -> Option<&mut x86_64::State> {
        match self {
            Self::X86_64(state) => Some(state),
            Self::Aarch64(_) => None,
        }
    }

    /// The architecture.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        match self {
            Self::X86_64(_) => Architecture::X86_64,
            Self::Aarch64(_) => Architecture::Aarch64,
        }
    }

    /// The CPU baseline.
    #[must_use]
    pub fn baseline(&self) -> Baseline {
        match self {
            Self::X86_64(state) => state.processor.baseline,
            Self::Aarch64(state) => state.processor.baseline,
        }
    }

    /// The host's wall clock at capture, in nanoseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn realtime_ns(&self) -> u64 {
        match self {
            Self::X86_64(state) => state.clock.realtime_ns,
            Self::Aarch64(state) => state.counter.realtime_ns,
        }
    }

    /// The state of an x86_64 machine; `None` for any other.
    #[must_use]
    pub fn x86_64(&self) -> Option<&x86_64::State> {
        match self {
            Self::X86_64(state) => Some(state),
            Self::Aarch64(_) => None,
        }
    }

    /// The state of an arm64 machine; `None` for any other.
    #[must_use]
    pub fn aarch64(&self) -> Option<&aarch64::State> {
        match self {
            Self::Aarch64(state) => Some(state),
            Self::X86_64(_) => None,
        }
    }

    /// Adds the architecture's sections to a state file.
    pub(super) fn encode(&self, file: &mut Builder) {
        match self {
            Self::X86_64(state) => state.encode(file),
            Self::Aarch64(state) => state.encode(file),
        }
    }

    /// Reads the sections of the header's architecture, and refuses those of any other.
    pub(super) fn decode(container: &Container<'_>) -> Result<Self, SnapshotError> {
        let architecture = container.architecture;
        let owner =
            |section: &Section| section.architecture().is_some_and(|own| own != architecture);
        let foreign =
            Section::ALL.into_iter().filter(owner).find(|section| container.has(*section));
        if let Some(section) = foreign {
            return Err(SnapshotError::Foreign { section: section.name(), architecture });
        }
        let (state, section) = match architecture {
            Architecture::X86_64 => {
                (Self::X86_64(x86_64::State::decode(container)?), Section::Processor)
            }
            Architecture::Aarch64 => {
                (Self::Aarch64(aarch64::State::decode(container)?), Section::ArmProcessor)
            }
        };
        let baseline = state.baseline();
        if container.baseline != baseline as u8 {
            return Err(inconsistent(section, "another baseline than the header"));
        }
        if !Baseline::all(architecture).contains(&baseline) {
            return Err(inconsistent(section, "a baseline of another architecture"));
        }
        Ok(state)
    }

    /// Checks the state against the machine's number of vCPUs and its hypervisor.
    pub(super) fn validate(
        &self,
        vcpus: u16,
        hypervisor: HypervisorFamily,
    ) -> Result<(), SnapshotError> {
        match self {
            Self::X86_64(state) => state.validate(vcpus),
            Self::Aarch64(state) => state.validate(vcpus, hypervisor),
        }
    }
}
