//! Why a bake failed, grouped by the remedy.

mod bake;
mod host;
mod input;
mod lock;
mod manifest;
mod project;
mod store;
mod workload;

pub use bake::BakeError;
pub use host::HostError;
pub use input::InputError;
pub use lock::LockError;
pub(crate) use lock::VERSION as LOCK_VERSION;
pub use manifest::ManifestError;
pub use project::ProjectError;
pub use store::StoreError;
pub use workload::{LastOutput, WorkloadError};
