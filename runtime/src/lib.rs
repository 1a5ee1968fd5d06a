//! Run OCI images as hardware-isolated microVMs that start from snapshots in milliseconds.
//!
//! `supermachine-baker` turns an image into a snapshot at build time; this crate maps that
//! snapshot into memory, goes on from there, and runs commands. It is made to ship inside an
//! application: few dependencies, no boot, no daemon, no root rights.
//!
//! ```no_run
//! use std::time::Duration;
//! use supermachine::{Image, VmConfig};
//!
//! # fn main() -> Result<(), supermachine::Error> {
//! let image = Image::from_store("target/snapshots", "python")?;
//! let vm = image.start(&VmConfig::new())?;
//! let outcome = vm
//!     .exec_builder()
//!     .argv(["python3", "-c", "print(6 * 7)"])
//!     .timeout(Duration::from_secs(5))
//!     .output()?;
//! assert_eq!(outcome.stdout, b"42\n");
//! vm.stop()?;
//! # Ok(())
//! # }
//! ```

pub mod agent;
mod assets;
#[cfg(feature = "tokio")]
pub mod async_;
mod config;
mod embed;
mod error;
mod exec;
mod files;
mod forward;
mod holder;
pub mod image;
mod live;
mod paths;
mod pool;
mod stats;
mod vm;
pub mod worker;

pub use assets::AssetPaths;
pub use config::VmConfig;
pub use embed::Snapshot;
pub use error::Error;
pub use exec::{
    ExecBuilder, ExecChild, ExecOutcome, ExecSignaler, ExecStderr, ExecStdin, ExecStdout,
    ExitStatus,
};
pub use files::{FileBuilder, FileReader, FileWriter};
pub use forward::{Forward, ForwardBuilder, GuestStream, Reverse, UnixForward};
pub use image::Image;
pub use live::Snapshotted;
pub use pool::{Pool, PoolBuilder, PoolStats, PooledVm};
pub use stats::VmStats;
pub use supermachine_vmm::{Timings, Way, host};
pub use vm::Vm;
