//! What tests of several crates share: samples, servers, and the bodies of the fuzz targets.
//!
//! No product code depends on this crate. Its features follow the crates: `packs` needs
//! `supermachine-snapshots`, `stores` the baker, `machines` a hypervisor and the test registry too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and a long bake prints its steps"
)]

pub mod fuzz;
#[cfg(feature = "machines")]
pub mod machines;
pub mod mutate;
#[cfg(feature = "packs")]
pub mod packs;
pub mod registry;
pub mod small_disk;
#[cfg(feature = "stores")]
pub mod stores;
#[cfg(feature = "volumes")]
pub mod volumes;
