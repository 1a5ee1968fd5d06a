//! x86_64 guests.

pub(crate) mod baseline;
mod ioapic;
pub mod layout;
pub(crate) mod model;
mod state;

pub(crate) use baseline::Mismatch;
pub(crate) use ioapic::{Ioapic as InterruptController, MessageSink};
pub use state::reset_ioapic;
pub(crate) use state::{ClockReading, SavedVcpu, captured_state, clock, monotonic_ns};
pub(crate) use supermachine_formats::snapshot::arch::x86_64::Clock;
