//! Build scripts that bake: what a package's `build.rs` calls.

mod cargo_env;
mod context;
mod progress;

pub use context::{BuildScript, Built, build_script, build_script_from_metadata};
