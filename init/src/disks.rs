//! Disks that a start gives to the machine: each is mounted where the container's programs look for it.
//!
//! Set up at each resume, before hooks and requests. A disk that is mounted in the snapshot has changed since,
//! so it is pulled out and mounted anew: files that were open there fail.
//!
//! What programs see is a directory of the file system, so that they find no `lost+found` in an empty disk.
//! In a new one it begins with the image's files, as a volume of Docker does.

use alloc::vec::Vec;
use core::ffi::CStr;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::{Failure, Volume};

use crate::container::Container;
use crate::disk::{Disk, fill};
use crate::failure::{OrFailure, failure};
use crate::joined::{Joined, everywhere};
use crate::place::{make_directories, path};
use crate::slot::release;
use crate::sys::fd::{self, Fd};
use crate::sys::{Errno, mount};
use crate::volume::directory;

/// Has a mounted file system fail everything from now on: `_IOR('X', 125, __u32)`.
const SHUT_DOWN: u32 = 0x8004_587D;
/// Without writing its journal.
const AT_ONCE: u32 = 2;
/// The directory of the file system that programs see.
const FILES: &[u8] = b"/files";

/// The disks that are mounted, here or in the snapshot.
#[derive(Debug, Default)]
pub(crate) struct Disks(Vec<Volume>);

impl Disks {
    /// Unmounts the disks of the snapshot.
    pub(crate) fn pull_out(&mut self, joined: Option<&Joined>) -> Result<(), Failure> {
        for former in core::mem::take(&mut self.0).iter().rev() {
            pull_out(former, joined)?;
        }
        Ok(())
    }

    /// Mounts disks, parents first.
    pub(crate) fn set_up(
        &mut self,
        volumes: &[Volume],
        container: Option<&Container>,
        joined: Option<&Joined>,
    ) -> Result<(), Failure> {
        let mut volumes: Vec<&Volume> = volumes.iter().filter(|volume| !is_layer(volume)).collect();
        volumes.sort_by(|one, other| one.target.cmp(&other.target));
        for volume in volumes {
            let container =
                container.ok_or_else(|| failure("mount", &volume.target, Errno::NOENT))?;
            make_directories(&volume.target)
                .or_else(|_| container.in_writable_root(|| make_directories(&volume.target)))?;
            let disk = Disk::find(volume.slot)?;
            let target = path(&volume.target)?;
            let covered = directory(&target)?;
            everywhere(joined, || attach(&disk, volume, &target, &covered))?;
            self.0.push(volume.clone());
        }
        Ok(())
    }
}

/// Unmounts a disk of the snapshot and takes its device from the kernel, which finds another one there at the
/// next probe.
fn pull_out(volume: &Volume, joined: Option<&Joined>) -> Result<(), Failure> {
    let target = path(&volume.target)?;
    everywhere(joined, || {
        if let Ok(root) = fd::open(&target, nr::O_RDONLY | nr::O_DIRECTORY, 0) {
            let mut how = AT_ONCE;
            // Programs may have mounted or unmounted something there: the device fails all requests.
            let _ = fd::ioctl(&root, SHUT_DOWN, &mut how);
        }
        // The files, and the file system below them.
        for _ in 0..2 {
            let _ = mount::unmount(&target);
        }
        Ok(())
    })?;
    release(volume.slot)
}

/// Whether the root's writable layer is to be on this disk, which then has no place of its own.
pub(crate) fn is_layer(volume: &Volume) -> bool {
    volume.target == b"/"
}

/// Mounts a disk's file system, and its files over it.
fn attach(disk: &Disk, volume: &Volume, target: &CStr, covered: &Fd) -> Result<(), Failure> {
    let name = &volume.target;
    disk.mount(target, volume.read_only)?;
    let files = [name, FILES].concat();
    fill(&files, covered)?;
    let files = path(&files)?;
    mount::mount(&files, target, c"", nr::MS_BIND, c"").or_failure("mount", name)?;
    if volume.read_only {
        let how = nr::MS_REMOUNT | nr::MS_BIND | nr::MS_RDONLY;
        mount::mount(c"", target, c"", how, c"").or_failure("mount", name)?;
    }
    Ok(())
}
