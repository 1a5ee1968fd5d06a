//! The boot snapshot: a machine that never ran, as data.
//!
//! It places kernel, command line, boot parameters and the agent's file system in a memory image,
//! and the first vCPU's entry registers in ordinary snapshot state. The runtime restores it like any
//! other snapshot. The same inputs produce the same bytes. Each architecture has its own boot
//! protocol, in a module with the same names.

#[cfg(any(target_arch = "aarch64", test))]
mod aarch64;
mod cpio;
mod error;
mod layout;
mod placed;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as native;
#[cfg(target_arch = "x86_64")]
use x86_64 as native;

pub use error::BootError;
pub use layout::{BootInputs, BootSnapshot, lay_out};
pub(crate) use layout::{RECIPE, check_size};
