//! KVM on x86_64.

mod convert;
mod cpuid;
mod msr;
mod probe;
mod vcpu;
mod vm;

pub(crate) use probe::probe;
pub(crate) use vm::create_vm;
