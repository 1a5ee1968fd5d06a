//! The devices of a machine, one folder each: `device.rs`, `state.rs`, `tests.rs`.

pub(crate) mod ioapic;
pub(crate) mod serial;
pub(crate) mod virtio;
