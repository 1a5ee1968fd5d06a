//! Apple's Hypervisor.framework, on Macs with Apple's processors.
//!
//! A process has at most one VM, and a vCPU belongs to the thread that created it: only a kick
//! (`hv_vcpus_exit`) crosses threads. Pages have 16 KiB. The interrupt controller is the framework's
//! own, which macOS has since version 15. Its functions, and all others that macOS 11 lacks, are
//! looked up by name, so that programs start everywhere and then say what is missing. The controller's
//! state is a blob of the framework, the CPU interfaces are the vCPUs'. PSCI and the trapped system
//! registers are served here.
//!
//! The virtual machine of this module's tests is `stand_in`: functions of the framework's names that
//! play scripts. Only `seam` needs an arm64 host; everything else is compiled and tested everywhere.
//!
//! On arm64 Linux, `RUSTFLAGS="--cfg hypervisor_framework"` selects this backend in place of KVM. A
//! program then links a library that has the framework's functions and `mach_absolute_time`, such as
//! one over KVM for tests: `-C link-arg=-lHypervisor`. It is a shared library, because `dlsym` finds
//! the functions of one.

mod cpu;
mod error;
mod exception;
mod exits;
mod framework;
mod gic;
mod instance;
mod presence;
mod probe;
mod processor;
mod psci;
mod registers;
#[cfg(target_arch = "aarch64")]
mod seam;
mod shared;
#[cfg(test)]
mod stand_in;
mod timer;
mod trapped;
mod vcpu;
mod vm;

pub(crate) use probe::probe;
#[cfg(target_arch = "aarch64")]
pub use seam::ONE_MACHINE_PER_PROCESS;
#[cfg(target_arch = "aarch64")]
pub(crate) use seam::{create_vm, device, family};
