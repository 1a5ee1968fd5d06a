//! A compiler for other platforms.
//!
//! rustup's toolchain has the standard library of this machine only. Debian has a compiler
//! with the library's source, and the library for arm64; they are unpacked into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::{cache, command, packages};

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
}

/// Downloads the packages and unpacks the parts that are needed.
fn unpack(scratch: &Path) -> Result<(), Error> {
    println!("fetching a compiler for other platforms");
    let apt = Apt::new(scratch)?;
    let library = apt.dependency("libstd-rust-web-dev", "libstd-rust-web-")?;
    let llvm = apt.dependency(&library, "libllvm")?;
    let download = scratch.join("download");
    fs::create_dir(&download).map_err(Error::file("create", &download))?;
    let mut fetch = apt.command("apt-get");
    fetch.arg("download").args(PACKAGES).args([library, llvm]).current_dir(&download);
    command::output(&mut fetch)?;
    for package in fs::read_dir(&download).map_err(Error::file("read", &download))? {
        let package = package.map_err(Error::file("read", &download))?.path();
        command::output(Command::new("dpkg").arg("-x").arg(&package).arg(scratch))?;
    }
    for folder in [download, apt.folder] {
        fs::remove_dir_all(&folder).map_err(Error::file("remove", &folder))?;
    }
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

/// apt with the system's sources and private lists that cover arm64 too.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(scratch: &Path) -> Result<Self, Error> {
        let folder = scratch.join("apt");
        let partial = folder.join("lists/partial");
        fs::create_dir_all(&partial).map_err(Error::file("create", &partial))?;
        let apt = Self { folder };
        command::output(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-q", "-o", "APT::Architectures=amd64,arm64"]);
        for (option, name) in [("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")] {
            command.arg("-o").arg(format!("{option}={}", self.folder.join(name).display()));
        }
        command
    }

    /// The dependency of a package whose name starts with `prefix`.
    fn dependency(&self, package: &str, prefix: &str) -> Result<String, Error> {
        let text = command::output(self.command("apt-cache").args(["depends", package]))?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let name = names.map(str::to_owned).find(|name| name.starts_with(prefix));
        name.ok_or_else(|| Error::Unexpected {
            what: "apt-cache depends",
            expected: format!("{package} to depend on a {prefix} package"),
            found: "none".into(),
        })
    }
}
