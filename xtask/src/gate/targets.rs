//! Type checks for other platforms.

use crate::cross::{LINUX_ARM, Toolchain};
use crate::error::Error;
use crate::{command, workspace};

const MACOS_ARM: &str = "aarch64-apple-darwin";

/// Each target with the arguments of one `cargo check`.
const CHECKS: [(&str, &[&str]); 4] = [
    (LINUX_ARM, &["--package", "supermachine-formats", "--package", "supermachine"]),
    (LINUX_ARM, &["--package", "supermachine", "--features", "fs,net,tokio"]),
    (LINUX_ARM, &["--package", "supermachine-init"]),
    // Debian has no standard library for macOS, so it is checked too.
    (
        MACOS_ARM,
        &["--package", "supermachine", "--features", "fs,net,tokio", "-Zbuild-std=std,panic_abort"],
    ),
];

/// Type-checks for each of the targets.
pub(super) fn check() -> Result<(), Error> {
    let toolchain = Toolchain::ensure()?;
    let target = workspace::target().join("targets");
    for (triple, arguments) in CHECKS {
        let mut cargo = workspace::cargo();
        cargo.args(["check", "--quiet", "--target", triple, "--target-dir"]).arg(&target);
        cargo.args(arguments);
        toolchain.serve(&mut cargo);
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
        // Parts that only a backend uses are dead code where there is none.
        cargo.env("RUSTFLAGS", "-Aunused");
        // Nothing is linked, so C code need not be compiled.
        let suffix = triple.replace('-', "_");
        cargo.env(format!("CC_{suffix}"), "true").env(format!("AR_{suffix}"), "true");
        command::run(&mut cargo)?;
    }
    Ok(())
}
