//! A compiler for other platforms, and programs for arm64 built with it.
//!
//! rustup's toolchain has the standard library of this machine only. Debian has a compiler
//! with the library's source, and the library for arm64; they are unpacked into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use supermachine_kernel::Arch;

use crate::apt::Apt;
use crate::error::Error;
use crate::{cache, command, packages, workspace};

/// Linux on arm64, as Rust names it.
pub(crate) const LINUX_ARM: &str = "aarch64-unknown-linux-gnu";

/// Shared libraries that Debian's compiler loads.
const LIBRARIES: &[&str] = &["libedit2", "libffi8", "libxml2", "libz3-4", "libzstd1", "zlib1g"];
/// Packages to unpack. The compiler's own libraries, whose names contain a version, are looked up.
const PACKAGES: &[&str] =
    &["libstd-rust-web-dev", "libstd-rust-web-dev:arm64", "rust-web-src", "rustc-web"];

/// The compiler, unpacked.
#[derive(Debug)]
pub(crate) struct Toolchain {
    folder: PathBuf,
}

impl Toolchain {
    /// Downloads it unless it is there.
    pub(crate) fn ensure() -> Result<Self, Error> {
        packages::ensure(LIBRARIES)?;
        let folder = cache::folder(&cache::dev().join("cross-rust"), unpack)?;
        Ok(Self { folder })
    }

    /// Makes a cargo command compile with it.
    pub(crate) fn serve(&self, cargo: &mut Command) {
        cargo.env("RUSTC", self.folder.join("usr/bin/rustc")).env("RUSTC_BOOTSTRAP", "1");
        cargo.env("LD_LIBRARY_PATH", self.folder.join("usr/lib/x86_64-linux-gnu"));
    }

    /// Makes a cargo command build programs for arm64.
    pub(crate) fn build_for_arm(&self, cargo: &mut Command) -> Result<(), Error> {
        packages::ensure(packages::CROSS)?;
        self.serve(cargo);
        cargo.args(["--target", LINUX_ARM]);
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", packages::CROSS_COMPILER);
        Ok(())
    }
}

/// Makes a cargo command build for an architecture: for another than this machine's with Debian's
/// compiler, and in a target folder of its own, because the two compilers would rebuild each
/// other's files.
pub(crate) fn build_for(arch: Arch, cargo: &mut Command) -> Result<(), Error> {
    if arch == Arch::host() {
        return Ok(());
    }
    cargo.arg("--target-dir").arg(target());
    Toolchain::ensure()?.build_for_arm(cargo)
}

/// This program, built for arm64.
pub(crate) fn this_program() -> Result<PathBuf, Error> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--quiet", "--bin", "xtask", "--profile", workspace::PROFILE]);
    // The same selection as that of the tests: another one has other features of shared crates.
    cargo.args(workspace::LIBRARIES);
    build_for(Arch::Aarch64, &mut cargo)?;
    command::run(&mut cargo)?;
    workspace::copy_program(&target().join(LINUX_ARM).join(workspace::PROFILE).join("xtask"))
}

fn target() -> PathBuf {
    workspace::target().join("cross")
}

/// Downloads the packages and unpacks the parts that are needed.
fn unpack(scratch: &Path) -> Result<(), Error> {
    println!("fetching a compiler for other platforms");
    let apt = Apt::new(scratch)?;
    let library = apt.dependency("libstd-rust-web-dev", "libstd-rust-web-")?;
    let llvm = apt.dependency(&library, "libllvm")?;
    let mut names = PACKAGES.to_vec();
    names.extend([&*library, &*llvm]);
    apt.unpack(&names, scratch)?;
    apt.remove()?;
    remove_unneeded(&scratch.join("usr"))
}

/// Removes the sources of the compiler and its tools; only the library's are needed.
fn remove_unneeded(usr: &Path) -> Result<(), Error> {
    let source = usr.join("lib/rustlib/src/rust");
    for folder in ["compiler", "src"].map(|name| source.join(name)) {
        fs::remove_dir_all(&folder).map_err(Error::file("remove", &folder))?;
    }
    Ok(())
}
