//! The container's root beside its files: what is mounted in it, and whether programs may write to it.
//!
//! A read-only root is a flag of its mount. The agent keeps a copy of the mounts from before, which nobody
//! else sees, and writes its own files there: names, ids. Invariant: between two calls of this
//! module, the agent's root is the one that programs see.

use alloc::ffi::CString;
use alloc::format;
use alloc::vec::Vec;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::{Failure, Settings, Tmpfs};

use crate::failure::{OrFailure, failure};
use crate::place::{make_directories, path};
use crate::sys::fd::{self, Fd};
use crate::sys::{Errno, mount};
use crate::volume::{Layers, MODE};

/// What is mounted at a path.
enum Mount<'a> {
    Tmpfs(&'a Tmpfs),
    /// The volume with this number.
    Volume(usize),
}

/// The copy of the mounts in which the root is writable.
#[derive(Debug)]
pub(crate) struct WritableRoot(Fd);

impl WritableRoot {
    /// Makes the root read-only. `write` writes the agent's own files first, and keeps files open only
    /// as it opened them.
    pub(crate) fn protect(write: impl FnOnce() -> Result<(), Failure>) -> Result<Self, Failure> {
        let root = Self(mount::copy_tree(c"/").or_failure("open", "/")?);
        // A file that is open for writing would keep the mount itself writable.
        root.with(write)?;
        let how = nr::MS_REMOUNT | nr::MS_BIND | nr::MS_RDONLY;
        mount::mount(c"", c"/", c"", how, c"").or_failure("mount", "/")?;
        Ok(root)
    }

    /// Calls `write` with this root, and returns to the present one.
    pub(crate) fn with<T>(&self, write: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let how = nr::O_PATH | nr::O_DIRECTORY;
        let present = fd::open(c"/", how, 0).or_failure("open", "/")?;
        mount::enter_root(&self.0).or_failure("chroot", "/")?;
        let written = write();
        mount::enter_root(&present).or_failure("chroot", "/")?;
        written
    }
}

/// Mounts the file systems in memory and the volumes, parents first, and resizes `/dev/shm`.
pub(crate) fn mount_settings(settings: &Settings, layers: &Layers) -> Result<(), Failure> {
    let tmpfs = settings.tmpfs.iter().map(|tmpfs| (&tmpfs.path, Mount::Tmpfs(tmpfs)));
    let volumes = settings.volumes.iter().enumerate();
    let mut mounts: Vec<_> =
        tmpfs.chain(volumes.map(|(number, path)| (path, Mount::Volume(number)))).collect();
    mounts.sort_by_key(|(path, _)| *path);
    for (path, mount) in mounts {
        match mount {
            Mount::Tmpfs(tmpfs) => mount_tmpfs(tmpfs)?,
            Mount::Volume(number) => layers.mount_volume(number, path)?,
        }
    }
    if let Some(size) = settings.shm_size {
        let how = nr::MS_REMOUNT | nr::MS_NOSUID | nr::MS_NOEXEC | nr::MS_NODEV;
        let data = c_string(&format!("size={size}"))?;
        mount::mount(c"tmpfs", c"/dev/shm", c"tmpfs", how, &data)
            .or_failure("mount", "/dev/shm")?;
    }
    Ok(())
}

/// Mounts a file system in memory. As in container engines, it takes over the mode of a directory of
/// the image; a new one is open to everybody.
fn mount_tmpfs(tmpfs: &Tmpfs) -> Result<(), Failure> {
    let Tmpfs { path: name, flags, data } = tmpfs;
    let target = path(name)?;
    let data = match mount::status(&target) {
        Ok(status) if data.split(',').all(|option| !option.starts_with("mode=")) => {
            let separator = if data.is_empty() { "" } else { "," };
            format!("{data}{separator}mode={:o}", u32::from(status.stx_mode) & MODE)
        }
        Ok(_) => data.clone(),
        Err(_) => {
            make_directories(name)?;
            data.clone()
        }
    };
    let data = c_string(&data)?;
    mount::mount(c"tmpfs", &target, c"tmpfs", *flags, &data).or_failure("mount", name)
}

fn c_string(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| failure("mount", text, Errno::INVAL))
}
