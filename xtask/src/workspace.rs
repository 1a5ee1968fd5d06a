//! The workspace that these tasks work on, and running cargo in it.

use std::path::PathBuf;
use std::process::Command;

/// The profile of all that is built here: optimised, since a host may emulate every
/// instruction, and one only, so that nothing is built twice.
pub(crate) const PROFILE: &str = "fast";

/// The sets of packages that are built together. The agent's program is built by itself:
/// among others, cargo unites the features of shared crates, and theirs bring the standard
/// library in, whose panic handler collides with its own.
pub(crate) const SELECTIONS: &[&[&str]] = &[LIBRARIES, &["--package", "supermachine-init"]];
/// All packages but the agent, with the features that are off by default.
pub(crate) const LIBRARIES: &[&str] =
    &["--workspace", "--exclude", "supermachine-init", "--features", "supermachine-examples/tokio"];

/// What of the command is tested once more, with what it signs programs for macOS with. Its
/// dependencies are as many again, so that only the tests build them.
pub(crate) const SIGNING: &[&str] =
    &["--package", "cargo-supermachine", "--features", "codesign", "--lib", "--test", "codesign"];

/// The folder with the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    // Cargo says where this package is now; the path at compile time serves a copied
    // program.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let package = package.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    package.parent().map(PathBuf::from).unwrap_or_default()
}

/// Where cargo puts what it builds for the workspace.
pub(crate) fn target() -> PathBuf {
    let given = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    root().join(given.unwrap_or_else(|| "target".into()))
}

/// Cargo, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // What cargo told this program of itself, some build scripts take for a change.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG") || text.starts_with("CARGO_MANIFEST") {
            cargo.env_remove(&name);
        }
    }
    cargo
}
