//! The emulated host's kernel: Debian's cloud kernel and the modules that KVM needs, unpacked into
//! the cache without installing them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use supermachine_kernel::Arch;

use super::platform;
use crate::apt::Apt;
use crate::cache;
use crate::command;
use crate::error::Error;

/// The folder with `vmlinuz` and the modules.
pub(super) fn ensure(arch: Arch) -> Result<PathBuf, Error> {
    let platform = platform::of(arch);
    cache::folder(&cache::dev().join(cache::name_for(arch, "host-kernel")), |scratch| {
        let meta = platform.kernel_package;
        println!("fetching the emulated host's kernel ({meta})");
        let apt = Apt::new(scratch)?;
        let meta = format!("{meta}:{}", platform.debian);
        let package = apt.dependency(&meta, "linux-image-")?;
        let unpacked = scratch.join("unpacked");
        apt.unpack(&[&package], &unpacked)?;
        apt.remove()?;
        let release = only_entry(&unpacked.join("lib/modules"))?;
        let name = release.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let vmlinuz = unpacked.join("boot").join(format!("vmlinuz-{name}"));
        let target = scratch.join("vmlinuz");
        fs::rename(&vmlinuz, &target).map_err(Error::file("rename", &vmlinuz))?;
        for (module, folder) in platform.modules {
            let packed = release.join(folder).join(format!("{module}.xz"));
            command::output(Command::new("xz").arg("-d").arg(&packed))?;
            let plain = packed.with_extension("");
            fs::rename(&plain, scratch.join(module)).map_err(Error::file("rename", &plain))?;
        }
        fs::remove_dir_all(&unpacked).map_err(Error::file("remove", &unpacked))
    })
}

fn only_entry(folder: &Path) -> Result<PathBuf, Error> {
    let mut entries = fs::read_dir(folder).map_err(Error::file("read", folder))?;
    let first = entries.next().transpose().map_err(Error::file("read", folder))?;
    let first = first.map(|entry| entry.path());
    first.ok_or_else(|| Error::file("read", folder)(std::io::ErrorKind::NotFound.into()))
}
