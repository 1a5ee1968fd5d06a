//! Hypervisors, behind one seam.
//!
//! A backend maps memory, creates vCPUs, runs them until they exit, delivers interrupts, and saves
//! and restores processors and clock. It knows no device and no snapshot file. Everything above
//! this module behaves the same on every backend.

mod error;
// The guest of these scripts is an x86_64 one.
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
pub(crate) mod fake;
#[cfg(any(all(target_os = "macos", target_arch = "aarch64"), hypervisor_framework, test))]
#[cfg_attr(
    not(any(all(target_os = "macos", target_arch = "aarch64"), hypervisor_framework)),
    allow(dead_code, unused_imports, unreachable_pub, reason = "only its tests use it")
)]
mod hvf;
mod hypervisor;
#[cfg(all(target_os = "linux", not(hypervisor_framework)))]
mod kvm;
#[cfg(any(target_arch = "aarch64", test))]
mod sequence;
mod speed;
#[cfg(not(any(
    target_os = "linux",
    all(target_os = "macos", target_arch = "aarch64"),
    hypervisor_framework
)))]
mod unsupported;

#[cfg(any(all(target_os = "macos", target_arch = "aarch64"), hypervisor_framework))]
use hvf as native;
#[cfg(all(target_os = "linux", not(hypervisor_framework)))]
use kvm as native;
#[cfg(not(any(
    target_os = "linux",
    all(target_os = "macos", target_arch = "aarch64"),
    hypervisor_framework
)))]
use unsupported as native;

pub use error::HypervisorError;
pub(crate) use hypervisor::{Access, Exit, Kick, Vcpu, Vm};
pub use native::ONE_MACHINE_PER_PROCESS;
pub(crate) use native::{create_vm, device, family, probe};
pub use speed::Speed;
