//! One machine, from restore to drop.
//!
//! [`restore`] builds a machine, [`capture`] and [`reset`] read and overwrite its state, and
//! [`lifecycle`] is the machine while it exists. [`board`] wires the devices together, [`vcpus`]
//! runs the processors.

#![forbid(unsafe_code)]

mod board;
mod capture;
mod exit_state;
mod lifecycle;
mod origin;
mod reset;
mod restore;
mod slots;
// The machine of these tests is an x86_64 one.
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests;
mod timings;
mod vcpus;
mod wall_clock;

pub use board::reset_serial;
pub use capture::Captured;
pub use exit_state::ExitWatch;
pub use lifecycle::Machine;
pub use origin::{Origin, can_page_on_demand};
pub use restore::Restore;
pub use slots::{
    Ends, HostShare, HostVolume, block_disk, boot_slots, mapped_disk, share_slots, share_tag,
    volume_slots,
};
pub use timings::{RestoreMode, Timings};
pub use wall_clock::realtime_ns;
