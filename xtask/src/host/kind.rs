//! The kinds of host and how to run a command in one.

use std::time::Duration;

use clap::ValueEnum;
use supermachine_kernel::Arch;

/// The memory of an emulated host by default.
pub(super) const MEMORY_MIB: u32 = 4096;

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

/// How to run a command in a host.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The host's architecture.
    pub(crate) arch: Arch,
    /// The time limit.
    pub(crate) timeout: Option<Duration>,
    /// The emulated host's memory.
    pub(crate) memory_mib: u32,
    /// The emulated host's processor, if not the usual one of its architecture.
    pub(crate) cpu: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { arch: Arch::host(), timeout: None, memory_mib: MEMORY_MIB, cpu: None }
    }
}
