//! Turn OCI images into snapshots that supermachine starts in milliseconds.
//!
//! This crate does the heavy work ahead of time: it pulls an image, writes its files to a disk,
//! starts a machine with it, waits until the entrypoint is ready, and captures the machine into a
//! [`Store`]. It has no hypervisor code: a machine that boots is a snapshot that never ran.
//!
//! ```no_run
//! use supermachine_baker::{OciImageBuilder, Store};
//!
//! # fn main() -> Result<(), supermachine_baker::BakeError> {
//! let store = Store::open("target/snapshots")?;
//! let baked = OciImageBuilder::new("redis")?.name("redis").memory_mib(128).bake(&store)?;
//! println!("{} is {}", baked.name, baked.digest);
//! # Ok(())
//! # }
//! ```

mod bake;
pub mod boot;
mod build;
mod error;
pub mod oci;
pub mod rootfs;
pub mod signals;
mod store;

pub use bake::{
    AfterRestore, Baked, Generator, Init, Observer, OciImageBuilder, Ready, RootDisk, Tmpfs,
    Warning,
};
pub use build::{
    BuildCache, BuildEnv, BuildScript, Built, build_script, build_script_from_metadata, lock,
    manifest,
};
pub use error::{
    BakeError, HostError, InputError, LastOutput, ProjectError, StoreError, WorkloadError,
};
pub use store::{
    Footprint, Imported, ItemTotal, Sizes, Store, Summary, SweepOptions, Swept, Transferred, Usage,
    Verified,
};

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
