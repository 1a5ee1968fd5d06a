//! The part of a snapshot that depends on the processor's architecture.
//!
//! Each architecture has a module of its own, which owns the state type, its sections in the
//! state file, and the CPU baselines. Code that serves every architecture names these types
//! through this module; only an architecture's own code names `arch::x86_64`.
//!
//! One architecture has a state so far, so the names are aliases. A second one turns
//! [`ArchState`] into an enum that the header's architecture selects; the paths stay.

pub mod x86_64;

pub use x86_64::baseline::{Baseline, FeatureWord, Features, Processor, UnknownBaseline};
pub use x86_64::{State as ArchState, Vcpu as VcpuState};
