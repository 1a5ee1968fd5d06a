//! Disks that a start gives to the machine: each is mounted where the container's programs look for it.
//!
//! Set up at each resume, before hooks and requests. A disk that is mounted in the snapshot has changed since,
//! so it is pulled out and mounted anew: files that were open there fail.
//!
//! What programs see is a directory of the file system, so that they find no `lost+found` in an empty disk.
//! In a new one it begins with the image's files, as a volume of Docker does.

use alloc::ffi::CString;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::ffi::CStr;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::{Failure, Volume};

use crate::container::{Container, wait_for_device};
use crate::failure::{OrFailure, failure};
use crate::joined::{Joined, everywhere};
use crate::place::{make_directories, path};
use crate::slot::{probe, release};
use crate::sys::fd::{self, Fd};
use crate::sys::{Errno, mount, slot_device, tree};
use crate::tar::{Packer, Unpacker};
use crate::volume::MODE;

/// Grows a mounted file system to as many blocks: `_IOW('f', 16, __u64)`.
const RESIZE: u32 = 0x4008_6610;
/// Has a mounted file system fail everything from now on: `_IOR('X', 125, __u32)`.
const SHUT_DOWN: u32 = 0x8004_587D;
/// Without writing its journal.
const AT_ONCE: u32 = 2;
/// The size of a block in sectors, which is the kernel's unit of a disk.
const BLOCK_SECTORS: u64 = 8;
/// Freed blocks are given back to the host.
const OPTIONS: &CStr = c"discard";
/// The directory of the file system that programs see.
const FILES: &[u8] = b"/files";
/// Bytes of the image's files that are copied at once.
const PIECE: usize = 64 << 10;

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
                container.ok_or_else(|| failure("mount", &volume.target, Errno::ENOENT))?;
            make_directories(&volume.target)
                .or_else(|_| container.in_writable_root(|| make_directories(&volume.target)))?;
            let disk = Disk::find(volume.slot)?;
            let target = path(&volume.target)?;
            let how = nr::O_PATH | nr::O_DIRECTORY;
            let covered = fd::open(&target, how, 0).or_failure("open", &volume.target)?;
            everywhere(joined, || disk.attach(volume, &target, &covered))?;
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

/// A disk that the kernel has found.
pub(crate) struct Disk {
    /// Its node.
    node: CString,
    /// Its size in blocks of the file system.
    blocks: u64,
}

impl Disk {
    /// Finds the disk in a slot, and waits until it can be opened.
    pub(crate) fn find(slot: u8) -> Result<Self, Failure> {
        probe(slot)?;
        let name = slot_device(slot);
        let missing = || failure("find disk", &name, Errno::ENODEV);
        let device = format!("/sys/bus/platform/devices/{name}");
        let children = tree::names(&path(device.as_bytes())?).or_failure("read", &device)?;
        let virtio =
            children.iter().find(|child| child.starts_with(b"virtio")).ok_or_else(missing)?;
        let block = [device.as_bytes(), b"/", virtio, b"/block"].concat();
        let disks = tree::names(&path(&block)?).or_failure("read", &block)?;
        let disk = disks.first().ok_or_else(missing)?;
        let size = [block.as_slice(), b"/", disk, b"/size"].concat();
        let size = fd::read_file(&path(&size)?).or_failure("read", &size)?;
        let sectors =
            core::str::from_utf8(&size).ok().and_then(|size| size.trim().parse::<u64>().ok());
        let blocks = sectors.ok_or_else(missing)? / BLOCK_SECTORS;
        let node = path(&[b"/dev/", disk.as_slice()].concat())?;
        wait_for_device(&node)?;
        Ok(Self { node, blocks })
    }

    /// Mounts the file system, and grows it to the size of the disk if it can be written.
    pub(crate) fn mount(&self, target: &CStr, read_only: bool) -> Result<(), Failure> {
        let name = target.to_bytes();
        mount::mount(&self.node, target, c"ext4", 0, OPTIONS).or_failure("mount", name)?;
        if !read_only {
            let root =
                fd::open(target, nr::O_RDONLY | nr::O_DIRECTORY, 0).or_failure("open", name)?;
            let mut blocks = self.blocks;
            fd::ioctl(&root, RESIZE, &mut blocks).or_failure("grow", name)?;
        }
        Ok(())
    }

    /// Mounts the file system, and its files over it.
    fn attach(&self, volume: &Volume, target: &CStr, covered: &Fd) -> Result<(), Failure> {
        let name = &volume.target;
        self.mount(target, volume.read_only)?;
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
}

/// Makes the directory that programs see, unless it exists: a copy of the one that the disk covers, with its owner
/// and mode. It gets its name when it is complete, on the disk too.
pub(crate) fn fill(files: &[u8], covered: &Fd) -> Result<(), Failure> {
    if !matches!(mount::status(&path(files)?), Err(Errno::ENOENT)) {
        return Ok(());
    }
    let image = format!("/proc/self/fd/{}", covered.number());
    let (source, part) = (path(image.as_bytes())?, [files, b".part".as_slice()].concat());
    let mut unpacker = Unpacker::new(&part)?;
    if !tree::names(&source).or_failure("read", &image)?.is_empty() {
        copy(&mut Packer::new(image.as_bytes())?, &mut unpacker)?;
        mount::sync();
    }
    let status = mount::status(&source).or_failure("stat", &image)?;
    let mode = u32::from(status.stx_mode) & MODE;
    let part = path(&part)?;
    mount::set_owner_and_mode(&part, status.stx_uid, status.stx_gid, mode)
        .or_failure("chmod", files)?;
    tree::rename(&part, &path(files)?).or_failure("rename", files)
}

fn copy(from: &mut Packer, to: &mut Unpacker) -> Result<(), Failure> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.give(&mut piece)? {
            0 => return to.finish(),
            count => to.take(piece.split_at(count).0)?,
        }
    }
}
