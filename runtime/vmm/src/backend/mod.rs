//! Hypervisors, behind one seam.
//!
//! A backend maps memory, creates vCPUs, runs them until they exit, delivers interrupts, and saves
//! and restores processors and clock. It knows no device and no snapshot file. Everything above
//! this module behaves the same on every backend.

mod error;
// The guest of these scripts is an x86_64 one.
#[cfg(all(test, target_arch = "x86_64"))]
pub(crate) mod fake;
mod hypervisor;
#[cfg(target_os = "linux")]
mod kvm;
mod speed;
#[cfg(not(target_os = "linux"))]
mod unsupported;

pub use error::HypervisorError;
pub(crate) use hypervisor::{Access, Exit, Kick, Vcpu, Vm};
#[cfg(target_os = "linux")]
pub use kvm::ONE_MACHINE_PER_PROCESS;
#[cfg(target_os = "linux")]
pub(crate) use kvm::{create_vm, device, family, probe};
pub use speed::Speed;
#[cfg(not(target_os = "linux"))]
pub use unsupported::ONE_MACHINE_PER_PROCESS;
#[cfg(not(target_os = "linux"))]
pub(crate) use unsupported::{create_vm, device, family, probe};
