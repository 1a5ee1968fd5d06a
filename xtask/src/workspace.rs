//! The workspace that these tasks work on, and running cargo in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::cache;
use crate::error::Error;

/// The one profile of everything built here, so that nothing is built twice. It is optimised because
/// a host may emulate every instruction.
pub(crate) const PROFILE: &str = "fast";

/// Sets of packages that are built together. The agent is built separately: together with others,
/// cargo unites the features of shared crates, which link the standard library, whose panic handler
/// collides with the agent's.
pub(crate) const SELECTIONS: &[&[&str]] = &[LIBRARIES, AGENT];
/// The agent, whose program cannot unwind.
pub(crate) const AGENT: &[&str] = &["--package", "supermachine-init"];
/// All packages but the agent, with the features that are off by default.
pub(crate) const LIBRARIES: &[&str] =
    &["--workspace", "--exclude", "supermachine-init", "--features", "supermachine-examples/tokio"];

/// The package whose tests run again with signing for macOS, which 200 dependencies are built for.
pub(crate) const SIGNING_PACKAGE: &str = "cargo-plugin";
/// Selects these tests, among others. With all packages selected, the other dependencies have the
/// features that [`LIBRARIES`] gives them, and are not built again.
pub(crate) const SIGNING: &[&str] = &[
    "--workspace",
    "--exclude",
    "supermachine-init",
    "--features",
    "supermachine-examples/tokio,cargo-supermachine/codesign",
    "--lib",
    "--test",
    "codesign",
];

/// The folder with the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    // Cargo names the package's current folder; a copied program uses the one of compile time.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let package = package.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    // Some packages are in the folder of another.
    let root = package.ancestors().find(|folder| folder.join("Cargo.lock").exists());
    root.map(PathBuf::from).unwrap_or_default()
}

/// The workspace's target folder.
pub(crate) fn target() -> PathBuf {
    let given = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    root().join(given.unwrap_or_else(|| "target".into()))
}

/// A copy of this program, to start hosts with. Cargo may replace the program itself while it runs:
/// built with other packages, it gets other features of shared dependencies.
pub(crate) fn this_program() -> Result<PathBuf, Error> {
    copy_program(Path::new("/proc/self/exe"))
}

/// A copy of a build of this program, under a name that tells builds apart.
pub(crate) fn copy_program(built: &Path) -> Result<PathBuf, Error> {
    let bytes = fs::read(built).map_err(Error::file("read", built))?;
    let dir = target().join("xtask");
    let copy = dir.join(format!("xtask-{}", cache::short_name(&Sha256::digest(&bytes))));
    if copy.exists() {
        return Ok(copy);
    }
    fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
    let part = dir.join(format!("{}.part", std::process::id()));
    fs::write(&part, &bytes).map_err(Error::file("write", &part))?;
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&part, executable).map_err(Error::file("set the mode of", &part))?;
    fs::rename(&part, &copy).map_err(Error::file("rename", &part))?;
    Ok(copy)
}

/// Cargo, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // Some build scripts would take the variables of this package for a change.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG") || text.starts_with("CARGO_MANIFEST") {
            cargo.env_remove(&name);
        }
    }
    cargo
}
