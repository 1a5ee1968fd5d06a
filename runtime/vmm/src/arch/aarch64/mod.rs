//! arm64 guests.

#[cfg(any(target_os = "macos", test))]
pub(crate) mod feature_names;
pub(crate) mod gic;
pub mod layout;
pub(crate) mod processor;
pub(crate) mod registers;
mod state;

pub(crate) use gic::{InterruptSink, Lines as InterruptController};
pub(crate) use state::{ClockReading, SavedInterrupts, SavedVcpu, captured_state, clock, state_of};
pub(crate) use supermachine_formats::snapshot::arch::aarch64::{
    Counter as Clock, Processor, State, Vcpu as VcpuState,
};

/// Whether a processor executes what the host last wrote to memory, without more ado. The hypervisor
/// sees to it only when a guest touches a page for the first time.
pub(crate) const HAS_COHERENT_INSTRUCTIONS: bool = false;
