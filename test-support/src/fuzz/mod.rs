//! The bodies of the fuzz targets: each has `run`, which takes any bytes and returns whether they are
//! accepted, and `samples`, which are.

#[cfg(feature = "fs")]
pub mod fs;
#[cfg(feature = "stores")]
pub mod layer;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "stores")]
pub mod oci;
pub mod pack_index;
#[cfg(feature = "packs")]
pub mod pack_manifest;
#[cfg(feature = "packs")]
pub mod pack_open;
pub mod snapshot_state;
#[cfg(feature = "packs")]
pub mod volume;
pub mod wire_agent;
pub mod wire_host;
