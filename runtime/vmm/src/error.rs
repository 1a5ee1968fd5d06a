//! Why a machine failed, and how a guest stopped by itself.

use std::borrow::Cow;
use std::io;

use supermachine_formats::snapshot::arch::{Baseline, Features};
use supermachine_formats::snapshot::{Architecture, HypervisorFamily};

use crate::arch::Mismatch;
use crate::backend::HypervisorError;
use crate::devices::DeviceError;

/// Why a machine could not be restored, run or captured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The hypervisor failed.
    #[error("hypervisor failed")]
    Hypervisor {
        /// Its error.
        source: HypervisorError,
    },
    /// Guest memory could not be mapped or read.
    #[error("guest memory cannot be {operation}")]
    Memory {
        /// The operation, as a participle.
        operation: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// A disk image could not be mapped or opened.
    #[error("disk {index} cannot be used")]
    Disk {
        /// The disk's index in the snapshot's list.
        index: usize,
        /// The operating system's error.
        source: io::Error,
    },
    /// A device refused its saved state.
    #[error("device in slot {slot} cannot be restored")]
    Device {
        /// The slot.
        slot: usize,
        /// What is wrong with the state.
        source: DeviceError,
    },
    /// A machine is to have more folders of the host than slots for them are empty.
    #[error("a machine has at most {most} folders of the host")]
    TooManyShares {
        /// The most.
        most: u8,
    },
    /// A machine is to have more volumes than slots for them are empty.
    #[error("a machine has at most {most} volumes")]
    TooManyVolumes {
        /// The most.
        most: u8,
    },
    /// The snapshot is for another processor architecture.
    #[error("snapshot is for {found}, this host is {host}; bake the image on {host}")]
    Architecture {
        /// The snapshot's architecture.
        found: Architecture,
        /// This host's architecture.
        host: Architecture,
    },
    /// The snapshot is for another hypervisor.
    #[error("snapshot is for {found}, this host has {host}; bake the image with {host}")]
    HypervisorFamily {
        /// The snapshot's hypervisor.
        found: HypervisorFamily,
        /// This host's hypervisor.
        host: HypervisorFamily,
    },
    /// The host's processor lacks features that the guest uses.
    #[error("this host's processor lacks {missing}, which the snapshot ({baseline}) uses")]
    Features {
        /// The baseline that the snapshot was made for.
        baseline: Baseline,
        /// The features that the processor lacks.
        missing: Features,
    },
    /// The snapshot was made for `host`, on a processor of another vendor.
    #[error("snapshot (host) is for processors of {found}, this host's is of {host}")]
    Vendor {
        /// The snapshot's vendor.
        found: String,
        /// This host's vendor.
        host: String,
    },
    /// The guest's counter has another frequency than this host's, and no processor scales it.
    #[error(
        "snapshot's counter runs at {found} Hz, this host's at {host} Hz; bake the image on a host with {host} Hz"
    )]
    CounterFrequency {
        /// The frequency where the snapshot was taken, in Hz.
        found: u32,
        /// This host's frequency, in Hz.
        host: u32,
    },
    /// The snapshot describes an impossible machine.
    #[error("snapshot has {what}")]
    Snapshot {
        /// The impossible part.
        what: &'static str,
    },
    /// The devices' event loop could not be created.
    #[error("event loop of the devices cannot be created")]
    Events {
        /// The operating system's error.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("thread cannot be started")]
    Thread {
        /// The operating system's error.
        source: io::Error,
    },
    /// A stream to the guest could not be opened.
    #[error("stream to the guest cannot be opened")]
    Stream {
        /// The cause.
        source: io::Error,
    },
    /// Data for the guest's agent is still in flight, so the machine cannot be captured yet.
    #[error("streams to the guest are still busy")]
    Busy,
    /// The machine pages its memory in on demand, and each page can be read only once.
    #[error("machine that started before its snapshot was expanded cannot be reset")]
    Unresettable,
    /// A capture of the machine for its former user is still in progress.
    #[error("machine that is being captured cannot be reset")]
    BeingCaptured,
    /// The guest stopped by itself.
    #[error("guest has stopped")]
    Ended {
        /// How.
        source: GuestFailure,
    },
}

/// How a guest stopped by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestFailure {
    /// It shut down or reset, as a kernel does after a panic and the agent after a fatal error.
    #[error("guest shut down")]
    Shutdown,
    /// The hypervisor could not run it any further.
    #[error("guest cannot be run: {reason} ({code:#x})")]
    Unrunnable {
        /// The hypervisor's reason.
        reason: Cow<'static, str>,
        /// The hypervisor's code.
        code: u64,
    },
    /// A part of the snapshot that the guest needed is missing or damaged.
    #[error("a page of the guest's snapshot is lost: {what}")]
    PageLost {
        /// The error that lost it.
        what: String,
    },
}

impl MachineError {
    /// Wraps an error of guest memory. `operation` is a participle.
    pub(crate) fn memory(operation: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Memory { operation, source }
    }
}

impl From<HypervisorError> for MachineError {
    fn from(source: HypervisorError) -> Self {
        Self::Hypervisor { source }
    }
}

impl From<GuestFailure> for MachineError {
    fn from(source: GuestFailure) -> Self {
        Self::Ended { source }
    }
}

impl From<Mismatch> for MachineError {
    fn from(mismatch: Mismatch) -> Self {
        match mismatch {
            Mismatch::Features { baseline, missing } => Self::Features { baseline, missing },
            Mismatch::Vendor { found, host } => Self::Vendor { found, host },
            Mismatch::CounterFrequency { found, host } => Self::CounterFrequency { found, host },
        }
    }
}
