//! Linux KVM.
//!
//! Set-up order is VM, split interrupt chip, memory, vCPUs: with a split chip it is quick to
//! create and to tear down. Local interrupt controllers are the kernel's, the I/O interrupt
//! controller is the machine's. A real-time signal kicks vCPUs. Their threads block it and only
//! `KVM_RUN` lets it through, so the backend installs no signal handler and leaves the
//! application's own signals alone.

mod probe;
mod signal;
mod system;
mod vm;
mod x86_64;

pub(crate) use probe::probe;
pub(crate) use system::device;
pub(crate) use vm::{create_vm, family};
