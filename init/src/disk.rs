//! A disk of the machine, with ext4: how the agent finds, mounts and fills it.

use alloc::ffi::CString;
use alloc::format;
use alloc::vec;
use core::ffi::CStr;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::Failure;

use crate::failure::{OrFailure, failure};
use crate::place::path;
use crate::slot::{probe, wait_for_device};
use crate::sys::fd::{self, Fd};
use crate::sys::{Errno, mount, slot_device, tree};
use crate::tar::{Packer, Unpacker};
use crate::volume::{MODE, own_path};

/// Grows a mounted file system to as many blocks: `_IOW('f', 16, __u64)`.
const RESIZE: u32 = 0x4008_6610;
/// The size of a block in sectors, which is the kernel's unit of a disk.
const BLOCK_SECTORS: u64 = 8;
/// Freed blocks are given back to the host.
const OPTIONS: &CStr = c"discard";
/// Bytes of the image's files that are copied at once.
const PIECE: usize = 64 << 10;

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
        let missing = || failure("find disk", &name, Errno::NODEV);
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
}

/// Makes the directory that programs see, unless it exists: a copy of the one that the disk covers, with its owner
/// and mode. It gets its name when it is complete, on the disk too.
pub(crate) fn fill(files: &[u8], covered: &Fd) -> Result<(), Failure> {
    if !matches!(mount::status(&path(files)?), Err(Errno::NOENT)) {
        return Ok(());
    }
    let image = own_path(covered);
    let (source, part) = (path(image.as_bytes())?, [files, b".part".as_slice()].concat());
    let mut unpacker = Unpacker::new(&part)?;
    if !tree::names(&source).or_failure("read", &image)?.is_empty() {
        copy(&mut Packer::new(image.as_bytes())?, &mut unpacker)?;
        rustix::fs::sync();
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
