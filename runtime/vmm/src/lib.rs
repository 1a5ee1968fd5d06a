//! One guest: memory, vCPUs, devices. It has one way to begin: from a snapshot.
//!
//! This is the layer below `supermachine::Vm`; `supermachine-baker` uses it to make snapshots.
//! What crosses the border of a machine is small on purpose, so that a worker process can
//! stand behind it: [`Machine::restore`], [`Machine::run`] and [`Machine::reset`],
//! [`Machine::pause`] and [`Machine::resume`], [`Machine::connect`] and [`Machine::control`] (each
//! hands out a stream's descriptor), [`Machine::capture`] and
//! [`Machine::capture_live`], [`Machine::console`], [`Machine::failure`], and dropping it.

mod baseline;
mod bus;
mod devices;
mod dirty;
pub mod host;
mod hypervisor;
pub mod layout;
mod lifecycle;
mod line;
mod memory;
mod origin;
mod pager;
mod reset;
mod slots;
mod sys;
#[cfg(test)]
mod tests;
mod timings;
mod uffd;
mod vcpu;
mod witness;

use std::borrow::Cow;
use std::io;

use supermachine_formats::snapshot::arch::{Baseline, Features};
use supermachine_formats::snapshot::{Architecture, HypervisorFamily};

pub use devices::virtio::DeviceError;
pub use devices::virtio::Vsock as Streams;
pub use dirty::DirtyPages;
pub use hypervisor::HypervisorError;
pub use lifecycle::realtime_ns;
pub use lifecycle::{Captured, Machine, Restore, reset_ioapic, reset_serial};
pub use memory::{MemoryFiles, Overlay};
pub use origin::Origin;
pub use origin::can_page_on_demand;
pub use pager::{Chunks, Place};
pub use slots::{block_disk, boot_slots, mapped_disk};
pub use sys::{fill_random, receive_now, send_now, shut_down, threads_for};
pub use timings::{Timings, Way};
pub use witness::Witness;

/// Why a machine could not be made, run or captured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The hypervisor did not do what it was asked.
    #[error("hypervisor failed")]
    Hypervisor {
        /// What it said.
        source: HypervisorError,
    },
    /// Guest memory could not be mapped or read.
    #[error("guest memory cannot be {operation}")]
    Memory {
        /// What was done with it.
        operation: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A disk image could not be mapped or opened.
    #[error("disk {index} cannot be used")]
    Disk {
        /// Its place in the snapshot's list.
        index: usize,
        /// The operating system's answer.
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
    /// The snapshot is for another processor architecture.
    #[error("snapshot is for {found:?}, this host is {host:?}")]
    Architecture {
        /// The snapshot's.
        found: Architecture,
        /// This host's.
        host: Architecture,
    },
    /// The snapshot is for another hypervisor.
    #[error("snapshot is for {found:?}, this host has {host:?}")]
    HypervisorFamily {
        /// The snapshot's.
        found: HypervisorFamily,
        /// This host's.
        host: HypervisorFamily,
    },
    /// The host's processor lacks features that the guest uses.
    #[error("this host's processor lacks {missing}, which the snapshot ({baseline}) uses")]
    Features {
        /// What the snapshot was made for.
        baseline: Baseline,
        /// What is not there.
        missing: Features,
    },
    /// The snapshot was made for `host` on another vendor's processor.
    #[error("snapshot (host) is for processors of {found}, this host's is of {host}")]
    Vendor {
        /// The snapshot's.
        found: String,
        /// This host's.
        host: String,
    },
    /// The snapshot describes a machine that cannot be.
    #[error("snapshot has {what}")]
    Snapshot {
        /// What it has.
        what: &'static str,
    },
    /// A thread could not be started.
    #[error("thread cannot be started")]
    Thread {
        /// The operating system's answer.
        source: io::Error,
    },
    /// A stream to the guest could not be opened.
    #[error("stream to the guest cannot be opened")]
    Stream {
        /// Why.
        source: io::Error,
    },
    /// Data for the guest is still under way, so the machine cannot be captured yet.
    #[error("streams to the guest are still busy")]
    Busy,
    /// The machine's memory came when it was touched, and cannot be had a second time.
    #[error("machine that started before its snapshot was expanded cannot be reset")]
    Unresettable,
    /// Somebody still takes a snapshot of it, for whoever used it before.
    #[error("machine that is being captured cannot be reset")]
    BeingCaptured,
    /// The guest has ended by itself.
    #[error("guest has ended")]
    Ended {
        /// How.
        source: GuestFailure,
    },
}

/// How a guest ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestFailure {
    /// It shut down or reset: what a kernel does after a panic, and the agent when it cannot
    /// go on.
    #[error("guest shut down")]
    Shutdown,
    /// The hypervisor could not run it any further.
    #[error("guest cannot be run: {reason} ({code:#x})")]
    Unrunnable {
        /// What the hypervisor said.
        reason: Cow<'static, str>,
        /// Its code.
        code: u64,
    },
    /// A part of the snapshot that the guest needed is missing or damaged.
    #[error("a page of the guest's snapshot is lost: {what}")]
    PageLost {
        /// What went wrong.
        what: String,
    },
}
