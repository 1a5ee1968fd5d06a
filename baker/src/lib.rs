//! Turn OCI images into snapshots that supermachine starts in milliseconds.
//!
//! The heavy half: it pulls an image, lays its files out as a disk, starts a machine with
//! it, runs the entrypoint until it is ready, and captures the machine into a [`Store`].
//! It holds no hypervisor code: a machine that boots is a snapshot that was never run.
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

mod added_files;
mod ask;
mod bake;
mod base;
pub mod boot;
mod build_script;
mod builder;
mod builds;
mod capture;
mod container;
mod error;
mod key;
pub mod lock;
pub mod manifest;
pub mod oci;
mod ready;
mod root_disk;
pub mod rootfs;
mod store;
mod warm;
mod warmup;
mod wishes;

pub use bake::{Baked, Observer};
pub use build_script::{BuildScript, Built, build_script, build_script_from_metadata};
pub use builder::OciImageBuilder;
pub use builds::Builds;
pub use error::BakeError;
pub use ready::Ready;
pub use root_disk::RootDisk;
pub use store::{
    Footprint, Freed, Imported, Sizes, Store, Summary, SweepOptions, Swept, Transferred, Usage,
    Verified,
};
pub use wishes::Wishes;

/// The examples of the project's front page, compiled with all others.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
