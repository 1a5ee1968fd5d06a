//! The emulated host's kernel: Debian's cloud kernel and the modules that KVM needs, unpacked into
//! the cache without installing them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache;
use crate::command;
use crate::error::Error;
use crate::packages;

const META_PACKAGE: &str = "linux-image-6.12-cloud-amd64";
/// In the order of loading.
pub(super) const MODULES: [(&str, &str); 3] = [
    ("irqbypass.ko", "kernel/virt/lib"),
    ("kvm.ko", "kernel/arch/x86/kvm"),
    ("kvm-amd.ko", "kernel/arch/x86/kvm"),
];

/// The folder with `vmlinuz` and the modules.
pub(super) fn ensure() -> Result<PathBuf, Error> {
    cache::folder(&cache::dev().join("host-kernel"), |scratch| {
        println!("fetching the emulated host's kernel ({META_PACKAGE})");
        let package = versioned_package()?;
        let download = scratch.join("download");
        fs::create_dir(&download).map_err(Error::file("create", &download))?;
        command::output(
            Command::new("apt-get").args(["-q", "download", &package]).current_dir(&download),
        )?;
        let deb = only_entry(&download)?;
        command::output(Command::new("dpkg").arg("-x").arg(&deb).arg(&download))?;
        let release = only_entry(&download.join("lib/modules"))?;
        let name = release.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let vmlinuz = download.join("boot").join(format!("vmlinuz-{name}"));
        let target = scratch.join("vmlinuz");
        fs::rename(&vmlinuz, &target).map_err(Error::file("rename", &vmlinuz))?;
        for (module, folder) in MODULES {
            let packed = release.join(folder).join(format!("{module}.xz"));
            command::output(Command::new("xz").arg("-d").arg(&packed))?;
            let plain = packed.with_extension("");
            fs::rename(&plain, scratch.join(module)).map_err(Error::file("rename", &plain))?;
        }
        fs::remove_dir_all(&download).map_err(Error::file("remove", &download))
    })
}

/// The package that holds the kernel itself, which the meta package depends on.
fn versioned_package() -> Result<String, Error> {
    let find = || {
        let text = command::output(Command::new("apt-cache").args(["depends", META_PACKAGE]));
        let text = text.unwrap_or_default();
        let name = text.lines().find_map(|l| l.trim().strip_prefix("Depends: "));
        name.map(str::to_owned)
    };
    if let Some(name) = find() {
        return Ok(name);
    }
    packages::update()?;
    find().ok_or_else(|| Error::Unexpected {
        what: "apt-cache depends",
        expected: format!("{META_PACKAGE} to depend on a kernel package"),
        found: "nothing".into(),
    })
}

fn only_entry(folder: &Path) -> Result<PathBuf, Error> {
    let mut entries = fs::read_dir(folder).map_err(Error::file("read", folder))?;
    let first = entries.next().transpose().map_err(Error::file("read", folder))?;
    let first = first.map(|entry| entry.path());
    first.ok_or_else(|| Error::file("read", folder)(std::io::ErrorKind::NotFound.into()))
}
