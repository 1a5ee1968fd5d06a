//! KVM on x86_64.

mod convert;
pub(super) mod cpuid;
mod msr;
mod vcpu;

pub(super) use vcpu::KvmVcpu;
