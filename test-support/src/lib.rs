//! What tests of several crates share: samples, servers, and the bodies of the fuzz targets.
//!
//! No product code depends on this crate. Its features follow the crates: `packs` needs the library
//! for snapshots, `stores` the baker.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

pub mod fuzz;
pub mod mutate;
#[cfg(feature = "packs")]
pub mod packs;
pub mod registry;
#[cfg(feature = "stores")]
pub mod stores;
