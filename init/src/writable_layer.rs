//! The root's writable layer on a disk: for a machine that writes more than fits into memory, or that keeps what
//! it wrote.
//!
//! What the snapshot has written to its root stays in memory, and becomes the layer below. The machine's other
//! mounts move along, but for the image's volumes: they are copied to the disk. Programs that keep files of the old
//! root open would not see what others write, so none may run.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::Failure;

use crate::disk::{Disk, fill};
use crate::failure::{OrFailure, failure};
use crate::mounts::{self, Mount};
use crate::place::{ensure_directory, path};
use crate::sys::fd::{self, Fd};
use crate::sys::{Errno, mount, tree};
use crate::volume::{Layers, MODE, OVERLAY_OPTIONS, directory, own_path, text_path};

/// Makes a disk's file system the writable layer of the root. `volumes` are the image's.
pub(crate) fn move_to(disk: &Disk, layers: &Layers, volumes: &[Vec<u8>]) -> Result<(), Failure> {
    check_alone()?;
    let mounts = mounts::now()?;
    let volumes = volumes.iter().map(|volume| real_path(volume)).collect::<Result<Vec<_>, _>>()?;
    let old = directory(c"/")?;
    let memory = layers.writable();
    let (own, new) = (format!("{memory}/disk"), format!("{memory}/root"));
    for directory in [&own, &new] {
        ensure_directory(&text_path(directory)?)?;
    }
    disk.mount(&text_path(&own)?, false)?;
    mount_layers(&old, &own, &new)?;
    let new = directory(&text_path(&new)?)?;
    Move { old: &mounts, own: &own, new: &own_path(&new), volumes: &volumes }.carry()?;
    mount::change_directory(&text_path(&own_path(&new))?).or_failure("chdir", "/")?;
    mount::mount(c".", c"/", c"", nr::MS_MOVE, c"").or_failure("mount", "/")?;
    mount::enter_root(&new).or_failure("chroot", "/")
}

/// Where a directory is, without links on the way.
fn real_path(name: &[u8]) -> Result<Vec<u8>, Failure> {
    let opened = directory(&path(name)?)?;
    tree::link_target(&text_path(&own_path(&opened))?).or_failure("readlink", name)
}

/// Fails if a program runs: the agent is the only process, beside the kernel's threads, which have no program.
fn check_alone() -> Result<(), Failure> {
    for process in tree::names(c"/proc").or_failure("read", "/proc")? {
        let is_other = process.first().is_some_and(u8::is_ascii_digit) && process != b"1";
        let folder = [b"/proc/", process.as_slice()].concat();
        let program = path(&[folder.as_slice(), b"/exe"].concat())?;
        if is_other && tree::link_target(&program).is_ok() {
            let name = fd::read_file(&path(&[folder.as_slice(), b"/comm"].concat())?);
            let name = name.unwrap_or_default();
            let name = String::from_utf8_lossy(name.trim_ascii_end());
            let process = String::from_utf8_lossy(&process);
            let what = format!("the writable layer while process {process} ({name}) runs");
            return Err(failure("move", what, Errno::EBUSY));
        }
    }
    Ok(())
}

/// Mounts the disk's layer over the old root at `new`.
fn mount_layers(old: &Fd, own: &str, new: &str) -> Result<(), Failure> {
    let root = mount::status(c"/").or_failure("stat", "/")?;
    let (upper, work) = (format!("{own}/upper"), format!("{own}/work"));
    if matches!(mount::status(&text_path(&upper)?), Err(Errno::ENOENT)) {
        // The layer's owner and mode are those of the root that programs see.
        let part = text_path(&format!("{own}/upper.part"))?;
        ensure_directory(&part)?;
        let mode = u32::from(root.stx_mode) & MODE;
        mount::set_owner_and_mode(&part, root.stx_uid, root.stx_gid, mode)
            .or_failure("chmod", "/")?;
        tree::rename(&part, &text_path(&upper)?).or_failure("rename", "/")?;
    }
    ensure_directory(&text_path(&work)?)?;
    let lower = own_path(old);
    let data = format!("lowerdir={lower},upperdir={upper},workdir={work},{OVERLAY_OPTIONS}");
    let mounted = mount::mount(c"overlay", &text_path(new)?, c"overlay", 0, &text_path(&data)?);
    match mounted {
        Err(Errno::ESTALE) => {
            Err(failure("mount", "/: the disk was written over another snapshot", Errno::ESTALE))
        }
        mounted => mounted.or_failure("mount", "/"),
    }
}

/// What moves to the new root.
struct Move<'a> {
    /// The mounts in the old root, parents first.
    old: &'a [Mount],
    /// Where the disk is mounted.
    own: &'a str,
    /// The new root.
    new: &'a str,
    volumes: &'a [Vec<u8>],
}

impl Move<'_> {
    fn carry(&self) -> Result<(), Failure> {
        let root = self.old.iter().rev().find(|mount| mount.path == b"/");
        let root = root.ok_or_else(|| failure("find", "the mount of /", Errno::ENOENT))?;
        let mut copied = vec![root.id];
        for mount in self.old {
            if !copied.contains(&mount.parent) {
                // It moves with its parent.
                continue;
            }
            match self.volumes.iter().position(|volume| *volume == mount.path) {
                Some(number) => {
                    self.copy(number, &mount.path)?;
                    copied.push(mount.id);
                }
                None => {
                    let (from, to) = (path(&mount.path)?, self.there(&mount.path)?);
                    mount::mount(&from, &to, c"", nr::MS_MOVE, c"")
                        .or_failure("mount", &mount.path)?;
                }
            }
        }
        Ok(())
    }

    /// Copies the image's `number`th volume to the disk, unless it is there, and mounts it in the new root.
    fn copy(&self, number: usize, name: &[u8]) -> Result<(), Failure> {
        let own = format!("{}/volume-{number}", self.own);
        ensure_directory(&text_path(&own)?)?;
        let files = format!("{own}/files");
        fill(files.as_bytes(), &directory(&path(name)?)?)?;
        mount::mount(&text_path(&files)?, &self.there(name)?, c"", nr::MS_BIND, c"")
            .or_failure("mount", name)
    }

    fn there(&self, name: &[u8]) -> Result<alloc::ffi::CString, Failure> {
        path(&[self.new.as_bytes(), name].concat())
    }
}
