//! Baking: an image reference in, a snapshot in the store out.
//!
//! [`OciImageBuilder`] describes a bake and `run` drives it, in this order: fetch, `root_disk`,
//! `base`, start, `readiness`, `capture`, `warmup`, `trial`.

mod added_files;
mod after_restore;
mod agent;
mod base;
mod builder;
mod capture;
mod container;
mod generators;
mod init;
mod key;
mod observer;
mod readiness;
mod ready;
mod root_disk;
mod run;
mod settings;
mod trial;
mod warmup;

pub use after_restore::AfterRestore;
pub use builder::OciImageBuilder;
pub use generators::Generator;
pub use init::Init;
pub(crate) use key::Key;
pub use observer::{Observer, Warning};
pub use ready::Ready;
pub(crate) use root_disk::RECIPE as ROOT_DISK_RECIPE;
pub use root_disk::RootDisk;
pub use run::Baked;
pub(crate) use run::RECIPE;
pub use settings::Tmpfs;
