//! x86_64 guests.

pub(crate) mod baseline;
mod ioapic;
pub mod layout;
pub(crate) mod model;
mod state;

pub(crate) use ioapic::{InterruptSink, Ioapic as InterruptController};
pub use state::reset_ioapic;
pub(crate) use state::{ClockReading, SavedInterrupts, SavedVcpu, captured_state, clock, state_of};
pub(crate) use supermachine_formats::snapshot::arch::x86_64::baseline::Processor;
pub(crate) use supermachine_formats::snapshot::arch::x86_64::{Clock, State, Vcpu as VcpuState};

/// Whether a processor executes what the host last wrote to memory, without more ado.
pub(crate) const HAS_COHERENT_INSTRUCTIONS: bool = true;
