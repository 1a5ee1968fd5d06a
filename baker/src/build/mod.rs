//! Bakes in builds: build scripts, declarations in `Cargo.toml`, the lock file and the cache of builds.

mod cache;
mod env;
pub mod lock;
pub mod manifest;
mod script;

pub use cache::BuildCache;
pub use env::BuildEnv;
pub use script::{BuildScript, Built, build_script, build_script_from_metadata};
