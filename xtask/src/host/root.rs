//! The root of an emulated host of another architecture: its programs, from Debian packages that
//! are unpacked but not installed, which would run their scripts.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use supermachine_kernel::Arch;

use super::platform;
use crate::cache;
use crate::command;
use crate::error::Error;
use crate::packages;

/// What tests start, and what the test images contain.
const PACKAGES: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "busybox-static",
    "coreutils",
    "curl",
    "dash",
    "diffutils",
    "docker-registry",
    "e2fsprogs",
    "grep",
    "libc-bin",
    "libgcc-s1",
    "mawk",
    "mount",
    "procps",
    "sed",
    "tar",
    "util-linux",
];
const RELEASE: &str = "bookworm";
/// A merged /usr, as this machine has.
const HOOK: &str = "--setup-hook=/usr/share/mmdebstrap/hooks/merged-usr/setup00.sh";

/// The folder of the root of an architecture.
pub(crate) fn ensure(arch: Arch) -> Result<PathBuf, Error> {
    let debian = platform::of(arch).debian;
    let include = PACKAGES.join(",");
    let digest = Sha256::digest(format!("{debian} {RELEASE} {HOOK} {include}"));
    let name = format!("{}-{}", cache::name_for(arch, "host-root"), cache::short_name(&digest));
    cache::folder(&cache::dev().join(name), |scratch| {
        packages::ensure(packages::ROOT)?;
        println!("making the root of the emulated host");
        let mut debootstrap = command::as_root("mmdebstrap");
        debootstrap.args([
            "--quiet",
            "--mode=root",
            "--variant=extract",
            "--format=directory",
            HOOK,
        ]);
        debootstrap.arg(format!("--architectures={debian}")).arg(format!("--include={include}"));
        command::output(debootstrap.arg(RELEASE).arg(scratch))?;
        // The scripts of base-passwd and netbase would write these.
        for name in ["passwd", "group"] {
            let master = scratch.join(format!("usr/share/base-passwd/{name}.master"));
            install(&master, &scratch.join("etc").join(name))?;
        }
        Ok(())
    })
}

fn install(from: &Path, to: &Path) -> Result<(), Error> {
    let mut install = command::as_root("install");
    command::output(install.args(["-m", "644"]).arg(from).arg(to)).map(drop)
}
