//! KVM on arm64.

mod gic;
mod probe;
mod processor;
mod register;
mod vcpu;
mod vm;

pub(crate) use probe::probe;
pub(crate) use vm::create_vm;
