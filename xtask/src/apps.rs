//! The example apps: packages of their own, which bake when they are built.
//!
//! Their tests build them in a host, which is slow. Building them here first, without snapshots,
//! compiles their dependencies; those that the other tests have as well are compiled already.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::command;
use crate::error::Error;
use crate::workspace;

/// The test program that builds them in the host.
pub(crate) const PROGRAM: &str = "vm_apps";
/// Names the target folder to that program.
pub(crate) const VARIABLE: &str = "SUPERMACHINE_TEST_APPS";

const APPS: [&str; 3] = ["embedded-eval", "bundle-app", "service"];
/// Has cargo compile a release build as [`workspace::PROFILE`] does.
pub(crate) const RELEASE_AS_TESTS: [(&str, &str); 9] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "2"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true"),
    ("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true"),
    ("CARGO_PROFILE_RELEASE_LTO", "false"),
    ("CARGO_PROFILE_RELEASE_PANIC", "unwind"),
    ("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"),
    ("CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_OPT_LEVEL", "2"),
    ("CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_CODEGEN_UNITS", "16"),
];

/// Where they are compiled to.
pub(crate) fn target() -> PathBuf {
    workspace::target().join("apps")
}

/// Compiles them, without their snapshots.
pub(crate) fn prepare() -> Result<(), Error> {
    println!("building the apps that bake when they are built");
    share_compiled()?;
    let lock = workspace::root().join("Cargo.lock");
    for app in APPS {
        let dir = workspace::root().join("examples").join(app);
        // The versions that everything else is tested with.
        fs::copy(&lock, dir.join("Cargo.lock")).map_err(Error::file("copy", &lock))?;
        let mut cargo = workspace::cargo();
        cargo.current_dir(&dir).args(["build", "--quiet", "--release"]).envs(RELEASE_AS_TESTS);
        cargo.env("CARGO_TARGET_DIR", target()).env("SUPERMACHINE_NO_BAKE", "1");
        command::run(&mut cargo)?;
    }
    Ok(())
}

/// Makes their release builds find what the tests' builds have compiled.
fn share_compiled() -> Result<(), Error> {
    let link = target().join("release");
    if link.is_symlink() {
        return Ok(());
    }
    if link.is_dir() {
        // From a build that shared nothing.
        fs::remove_dir_all(&link).map_err(Error::file("remove", &link))?;
    }
    fs::create_dir_all(target()).map_err(Error::file("create", &target()))?;
    symlink(PathBuf::from("..").join(workspace::PROFILE), &link).map_err(Error::file("link", &link))
}
