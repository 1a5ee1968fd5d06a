//! What the guest kernel is built from, and how: the facts that name a build.
//!
//! `build.rs` digests this file; whatever changes the resulting bytes belongs either
//! here or in a configuration fragment.

/// The Debian package with the kernel's source.
pub const SOURCE_PACKAGE: &str = "linux-source-6.12";

/// Counts up when the steps of the build change what comes out of it.
pub const VERSION: u32 = 1;

/// What the build is asked to make.
pub const GOAL: &str = "vmlinux";

/// The settings of make that keep time, user and machine out of the result.
pub const REPRODUCIBLE: [&str; 3] = [
    "KBUILD_BUILD_TIMESTAMP=@0",
    "KBUILD_BUILD_USER=supermachine",
    "KBUILD_BUILD_HOST=supermachine",
];
