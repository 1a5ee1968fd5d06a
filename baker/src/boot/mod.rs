//! The boot snapshot: a machine that never ran, as data.
//!
//! It places kernel, command line, boot parameters and the agent's file system in a memory image,
//! and the first vCPU's entry registers in ordinary snapshot state. The runtime restores it like any
//! other snapshot. The same inputs produce the same bytes.

mod cpio;
mod error;
mod layout;
mod mptable;
#[cfg(test)]
mod tests;
mod x86_64;

pub use error::BootError;
pub use layout::{BootInputs, BootSnapshot, lay_out};
pub(crate) use layout::{RECIPE, check_size};
