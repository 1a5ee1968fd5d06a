//! Run OCI images as hardware-isolated microVMs that start from snapshots in milliseconds.
//!
//! `supermachine-baker` turns an image into a snapshot at build time; this crate maps that snapshot
//! into memory, resumes it, and runs commands. It ships inside an application: few dependencies, no
//! boot, no daemon, no root rights.
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

// For the baker only.
#[doc(hidden)]
pub mod agent;
mod assets;
#[cfg(feature = "tokio")]
pub mod async_;
mod config;
mod disks;
mod embed;
pub mod error;
mod exec;
mod files;
mod forward;
// `Image` is part of the API; the rest is for the baker.
#[doc(hidden)]
pub mod image;
mod live;
mod machine;
mod network;
mod os;
mod paths;
mod pool;
mod shares;
mod vm;
#[cfg(feature = "fs")]
mod volume;
pub mod worker;

pub use assets::AssetPaths;
pub use config::VmConfig;
pub use embed::Snapshot;
pub use error::Error;
pub use exec::{
    ExecBuilder, ExecChild, ExecOutcome, ExecSignaler, ExecStderr, ExecStdin, ExecStdout,
    ExitStatus, Ulimit,
};
pub use files::{FileBuilder, FileReader, FileWriter};
pub use forward::{Forward, ForwardBuilder, GuestStream, Reverse, UdpForward, UnixForward};
pub use image::Image;
pub use live::TakenSnapshot;
pub use machine::Blocking;
pub use pool::{Pool, PoolBuilder, PoolStats, PooledVm};
#[cfg(feature = "fs")]
pub use supermachine_fs::{FolderError, HostFolder};
#[cfg(feature = "net")]
pub use supermachine_net::{
    Decision, Network, Protocol, Rule, RuleError, StackStats as NetworkStats,
};
pub use supermachine_vmm::RestoreMode;
pub use supermachine_vmm::{Timings, host};
pub use vm::{Vm, VmStats};
#[cfg(feature = "fs")]
pub use volume::{Volume, VolumeError, VolumeFolder, VolumeInfo};

/// The examples of the guide to this library, compiled with all others.
#[cfg(doctest)]
#[doc = include_str!("../../docs/library.md")]
struct Guide;

/// The examples of the guide to storage.
#[cfg(all(doctest, feature = "fs"))]
#[doc = include_str!("../../docs/storage.md")]
struct StorageGuide;

/// The examples of the guide to networks.
#[cfg(all(doctest, feature = "net"))]
#[doc = include_str!("../../docs/network.md")]
struct NetworkGuide;
