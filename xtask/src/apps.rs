//! The example apps: packages of their own, which bake when they are built.
//!
//! Their tests build them in a host, which is slow. Building them here first, without snapshots,
//! compiles their dependencies.

use std::fs;
use std::path::PathBuf;

use crate::command;
use crate::error::Error;
use crate::workspace;

/// The test program that builds them in the host.
pub(crate) const PROGRAM: &str = "vm_apps";
/// Names the target folder to that program.
pub(crate) const VARIABLE: &str = "SUPERMACHINE_TEST_APPS";

const APPS: [&str; 3] = ["embedded-eval", "bundle-app", "service"];
/// Quick to link. The test program sets the same, or everything would be compiled again.
const PROFILE: [(&str, &str); 2] =
    [("CARGO_PROFILE_RELEASE_LTO", "off"), ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")];

/// Where they are compiled to.
pub(crate) fn target() -> PathBuf {
    workspace::target().join("apps")
}

/// Compiles them, without their snapshots.
pub(crate) fn prepare() -> Result<(), Error> {
    println!("building the apps that bake when they are built");
    let lock = workspace::root().join("Cargo.lock");
    for app in APPS {
        let dir = workspace::root().join("examples").join(app);
        // The versions that everything else is tested with.
        fs::copy(&lock, dir.join("Cargo.lock")).map_err(Error::file("copy", &lock))?;
        let mut cargo = workspace::cargo();
        cargo.current_dir(&dir).args(["build", "--quiet", "--release"]).envs(PROFILE);
        cargo.env("CARGO_TARGET_DIR", target()).env("SUPERMACHINE_NO_BAKE", "1");
        command::run(&mut cargo)?;
    }
    Ok(())
}
