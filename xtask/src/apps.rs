//! The example apps: packages of their own, which bake when they are built.
//!
//! Their tests build them in a host, which is slow. Building them here first, without snapshots,
//! compiles their dependencies; those that the other tests have as well are compiled already.

use std::fs;

use crate::command;
use crate::error::Error;
use crate::workspace;

/// The test program that builds them in the host.
pub(crate) const PROGRAM: &str = "vm_apps";
/// Names the target folder to that program.
pub(crate) const VARIABLE: &str = "SUPERMACHINE_TEST_APPS";

const APPS: [&str; 3] = ["embedded-eval", "bundle-app", "service"];
/// Defines [`workspace::PROFILE`] in packages outside the workspace. Its `Cargo.toml` has the same, or
/// nothing would be shared.
pub(crate) const PROFILE: [(&str, &str); 7] = [
    ("CARGO_PROFILE_FAST_INHERITS", "dev"),
    ("CARGO_PROFILE_FAST_OPT_LEVEL", "2"),
    ("CARGO_PROFILE_FAST_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_FAST_DEBUG", "false"),
    ("CARGO_PROFILE_FAST_PANIC", "unwind"),
    ("CARGO_PROFILE_FAST_BUILD_OVERRIDE_OPT_LEVEL", "2"),
    ("CARGO_PROFILE_FAST_BUILD_OVERRIDE_CODEGEN_UNITS", "16"),
];

/// Compiles them, without their snapshots.
pub(crate) fn prepare() -> Result<(), Error> {
    println!("building the apps that bake when they are built");
    let lock = workspace::root().join("Cargo.lock");
    for app in APPS {
        let dir = workspace::root().join("examples").join(app);
        // The versions that everything else is tested with.
        fs::copy(&lock, dir.join("Cargo.lock")).map_err(Error::file("copy", &lock))?;
        let mut cargo = workspace::cargo();
        cargo.current_dir(&dir).args(["build", "--quiet", "--profile", workspace::PROFILE]);
        cargo.envs(PROFILE).env("CARGO_TARGET_DIR", workspace::target());
        cargo.env("SUPERMACHINE_NO_BAKE", "1");
        command::run(&mut cargo)?;
    }
    Ok(())
}
