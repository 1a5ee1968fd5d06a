//! The processor architecture: address space, interrupt controller, CPU baseline and clock.
//!
//! `x86_64` is about guests and compiles on every host: it is the one architecture that snapshots
//! have a state for. What concerns this host's own processor is in `host`. Code outside of `arch`
//! and `backend` names only what this module re-exports.

pub(crate) mod host;
mod x86_64;

pub use x86_64::layout;
pub use x86_64::layout::{MAX_MEMORY, MAX_VCPUS, MIN_MEMORY};
pub use x86_64::reset_ioapic;
pub(crate) use x86_64::{
    Clock, ClockReading, InterruptController, MessageSink, Mismatch, SavedVcpu, captured_state,
    clock, monotonic_ns,
};

// What a backend for this architecture builds on.
pub(crate) use x86_64::{baseline, model};
