//! What the guest kernel is built from, and how: the facts that name a build.
//!
//! `build.rs` digests this file; whatever changes the resulting bytes belongs either
//! here or in a configuration fragment.

/// The Debian package with the kernel's source.
pub const SOURCE_PACKAGE: &str = "linux-source-6.12";

/// Counts up when the steps of the build change what comes out of it.
pub const VERSION: u32 = 2;

/// What lays the functions that run between a restore and a command's end next to each
/// other, and the variables that they use, so that both are in few pages: the program that stands
/// before the assembler, and their names, one a line, sorted. The source itself is not changed.
pub const LAYOUT: [(&str, &str); 3] = [
    ("as", include_str!("../layout/as")),
    ("hot-functions", include_str!("../layout/hot-functions")),
    ("hot-data", include_str!("../layout/hot-data")),
];

/// The options of the compiler that go with [`LAYOUT`], before the folder that holds it.
pub const LAYOUT_FLAGS: &str = "-ffunction-sections -fdata-sections -B";

/// What the build is asked to make.
pub const GOAL: &str = "vmlinux";

/// The settings of make that keep time, user and machine out of the result.
pub const REPRODUCIBLE: [&str; 3] = [
    "KBUILD_BUILD_TIMESTAMP=@0",
    "KBUILD_BUILD_USER=supermachine",
    "KBUILD_BUILD_HOST=supermachine",
];
