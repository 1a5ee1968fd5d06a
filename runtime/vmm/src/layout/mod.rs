//! Where everything is in a guest's address space, architecture by architecture.

// Architectures without a layout of their own have this one, so that the crate compiles there:
// without a backend, no machine is ever laid out.
mod x86_64;

pub use x86_64::*;
