//! The kinds of host and the limits of a command in one.

use std::time::Duration;

use clap::ValueEnum;

/// The memory of an emulated host by default.
pub(super) const MEMORY_MIB: u32 = 4096;
/// The processor of an emulated host by default.
pub(super) const CPU: &str = "EPYC-Rome,+svm,+npt";

/// The exit status when the emulated host's clock stops: EX_TEMPFAIL, as a new run may succeed.
pub(crate) const CLOCK_STOPPED: u8 = 75;

/// The kinds of host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// This machine, with its own hypervisor.
    Native,
    /// A whole machine emulated with a complete KVM, on any machine.
    Emulated,
    /// The emulated host with a clock that counts instructions.
    Measuring,
}

impl Kind {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Emulated => "emulated",
            Self::Measuring => "measuring",
        }
    }
}

/// The limits of a command in a host.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// The time limit.
    pub(crate) timeout: Option<Duration>,
    /// The emulated host's memory.
    pub(crate) memory_mib: u32,
    /// The emulated host's processor.
    pub(crate) cpu: String,
}

impl Default for Limits {
    fn default() -> Self {
        Self { timeout: None, memory_mib: MEMORY_MIB, cpu: CPU.to_owned() }
    }
}
