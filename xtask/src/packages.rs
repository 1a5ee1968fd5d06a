//! The Debian packages that tasks need, and their installation.

use std::process::{Command, Stdio};

use crate::cache;
use crate::command;
use crate::error::Error;

/// Builds the guest kernel.
pub(crate) const KERNEL: &[&str] = &[
    "bc",
    "bison",
    "build-essential",
    "cpio",
    "flex",
    "kmod",
    "libelf-dev",
    "libssl-dev",
    "linux-source-6.12",
    "rsync",
    "xz-utils",
    "zstd",
];
/// Compiles and links for arm64 on another machine.
pub(crate) const CROSS: &[&str] = &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];
/// What the names of its tools begin with.
pub(crate) const CROSS_PREFIX: &str = "aarch64-linux-gnu-";
/// Its compiler, which also links.
pub(crate) const CROSS_COMPILER: &str = "aarch64-linux-gnu-gcc";
/// Makes the test images and serves them.
pub(crate) const IMAGES: &[&str] =
    &["busybox-static", "docker-registry", "mmdebstrap", "python3", "skopeo", "umoci", "zstd"];
/// Tools that tests compare our results with.
pub(crate) const TESTS: &[&str] = &[
    "curl",
    "device-tree-compiler",
    "docker-registry",
    "erofs-utils",
    "git",
    "openssl",
    "postgresql-client-15",
    "python3",
    "redis-tools",
    "skopeo",
    "umoci",
];
/// Runs the emulated host, beside QEMU for its architecture.
pub(crate) const HOST: &[&str] = &["qemu-system-common", "xz-utils"];
/// Makes the root of an emulated host of another architecture.
pub(crate) const ROOT: &[&str] = &["mmdebstrap"];

/// Prints and installs the packages of `wanted` that are missing.
pub(crate) fn ensure(wanted: &[&str]) -> Result<(), Error> {
    if missing(wanted)?.is_empty() {
        return Ok(());
    }
    let _lock = cache::lock(&cache::dev().join("packages.lock"))?;
    let missing = missing(wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing Debian packages: {}", missing.join(" "));
    // The usual reason for a first failure is an absent or stale index.
    if install(&missing).is_err() {
        update()?;
        install(&missing)?;
    }
    Ok(())
}

/// Updates the package index.
pub(crate) fn update() -> Result<(), Error> {
    println!("updating the package index");
    command::output(command::as_root("apt-get").args(["-q", "update"])).map(drop)
}

/// The packages of `wanted` that are not installed.
fn missing<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>, Error> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(wanted);
    // dpkg-query exits with 1 when it does not know one of the names.
    let known = query
        .stderr(Stdio::null())
        .output()
        .map_err(|source| command::start(&query, source))?
        .stdout;
    let known = String::from_utf8_lossy(&known).into_owned();
    let is_installed = |name: &&str| known.lines().any(|l| l.split(' ').eq([*name, "installed"]));
    Ok(wanted.iter().filter(|name| !is_installed(name)).copied().collect())
}

fn install(names: &[&str]) -> Result<(), Error> {
    let mut apt = command::as_root("env");
    apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]);
    apt.args(["-o", "DPkg::Lock::Timeout=300", "install", "--no-install-recommends"]);
    command::output(apt.args(names)).map(drop)
}
