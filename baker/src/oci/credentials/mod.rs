//! Credentials for registries, from the files and helpers of Docker and Podman.
//!
//! A key names a registry or a part of one (`HOST/a`). The longest key that covers the repository
//! wins, and credentials for one part of a registry are never used for another. This module sends
//! nothing. Secrets never appear in errors or debug output.

mod file;
mod helper;
mod lookup;
mod secret;

pub(crate) use lookup::{HELPER_TIMEOUT, default_files, search};
pub use lookup::{docker_config_dir, find_credentials};
pub use secret::Credentials;
