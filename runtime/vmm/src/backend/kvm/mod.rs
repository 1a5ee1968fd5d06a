//! Linux KVM.
//!
//! Local interrupt controllers are the kernel's; on arm64, so is the rest of the controller. A
//! real-time signal kicks vCPUs. Their threads block it and only `KVM_RUN` lets it through, so the
//! backend installs no signal handler and leaves the application's own signals alone.
//!
//! What both architectures share is here; the rest is in a folder for each.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod exits;
mod memory;
mod signal;
mod system;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use supermachine_formats::snapshot::HypervisorFamily;

#[cfg(target_arch = "aarch64")]
use aarch64 as native;
#[cfg(target_arch = "x86_64")]
use x86_64 as native;

use super::error::HypervisorError;

pub(crate) use native::{create_vm, probe};
pub(crate) use system::device;

/// Whether a process can have one machine only.
pub const ONE_MACHINE_PER_PROCESS: bool = false;

/// The family of hypervisors that this one belongs to.
pub(crate) fn family() -> Result<HypervisorFamily, HypervisorError> {
    Ok(HypervisorFamily::Kvm)
}
