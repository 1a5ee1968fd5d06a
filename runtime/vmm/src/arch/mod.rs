//! The processor architecture: address space, interrupt controller, CPU baseline and clock.
//!
//! One module for each architecture of guests, with the same names. Code outside of `arch` and
//! `backend` names only what this module re-exports, which is that of the host's architecture.
//! What concerns this host's own processor is in `host`.

#[cfg_attr(
    any(not(target_arch = "aarch64"), target_os = "macos", hypervisor_framework),
    allow(dead_code, unused_imports, reason = "the host has another one, or a simpler hypervisor")
)]
pub mod aarch64;
pub(crate) mod host;
mod mismatch;
mod slots;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, unused_imports, reason = "the host has another one")
)]
pub mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as native;
#[cfg(target_arch = "x86_64")]
use x86_64 as native;

pub(crate) use mismatch::Mismatch;
pub use native::layout;
pub use native::layout::{MAX_MEMORY, MAX_VCPUS, MIN_MEMORY};
pub(crate) use native::{
    Clock, ClockReading, HAS_COHERENT_INSTRUCTIONS, InterruptController, InterruptSink, Processor,
    SavedInterrupts, SavedVcpu, State, VcpuState, captured_state, clock, state_of,
};
