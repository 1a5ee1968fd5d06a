//! The root's writable layer on a disk: for a machine that writes more than fits into memory, or that keeps what
//! it wrote.
//!
//! What the snapshot has written to its root stays in memory, and becomes the layer below. The machine's other
//! mounts move along, but for the image's volumes: they are copied to the disk. Programs that keep files of the old
//! root open would not see what others write, so none may run.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::Failure;

use crate::disk::{Disk, fill};
use crate::failure::{OrFailure, failure};
use crate::in_use::processes;
use crate::mounts::{self, Mount};
use crate::place::{ensure_directory, path};
use crate::sys::fd::{self, Fd};
use crate::sys::{Errno, mount, tree};
use crate::volume::{Layers, MODE, OVERLAY_OPTIONS, directory, own_path, real_path, text_path};

/// Makes a disk's file system the writable layer of the root. `volumes` are the image's.
pub(crate) fn move_to(disk: &Disk, layers: &Layers, volumes: &[Vec<u8>]) -> Result<(), Failure> {
    check_alone()?;
    let mounts = mounts::now()?;
    let volumes = volumes
        .iter()
        .map(|volume| real_path(&path(volume)?, volume))
        .collect::<Result<Vec<_>, _>>()?;
    let old = directory(c"/")?;
    let memory = layers.writable();
    let (own, new) = (format!("{memory}/disk"), format!("{memory}/root"));
    for directory in [&own, &new] {
        ensure_directory(&text_path(directory)?)?;
    }
    disk.mount(&text_path(&own)?, false)?;
    mount_layers(&old, &own, &new)?;
    rustix::process::chdir(&text_path(&new)?).or_failure("chdir", "/")?;
    carry(&mounts, &own, &volumes)?;
    let new = directory(c".")?;
    mount::mount(c".", c"/", c"", nr::MS_MOVE, c"").or_failure("mount", "/")?;
    mount::enter_root(&new).or_failure("chroot", "/")
}

/// Fails if a program runs: the agent is the only process, beside the kernel's threads, which have no program.
fn check_alone() -> Result<(), Failure> {
    for process in processes()? {
        let is_other = process != b"1";
        let folder = [b"/proc/", process.as_slice()].concat();
        let program = path(&[folder.as_slice(), b"/exe"].concat())?;
        if is_other && tree::link_target(&program).is_ok() {
            let name = fd::read_file(&path(&[folder.as_slice(), b"/comm"].concat())?);
            let name = name.unwrap_or_default();
            let name = String::from_utf8_lossy(name.trim_ascii_end());
            let process = String::from_utf8_lossy(&process);
            let what = format!("the writable layer while process {process} ({name}) runs");
            return Err(failure("move", what, Errno::BUSY));
        }
    }
    Ok(())
}

/// Mounts the disk's layer over the old root at `new`.
fn mount_layers(old: &Fd, own: &str, new: &str) -> Result<(), Failure> {
    let root = mount::status(c"/").or_failure("stat", "/")?;
    let (upper, work) = (format!("{own}/upper"), format!("{own}/work"));
    if matches!(mount::status(&text_path(&upper)?), Err(Errno::NOENT)) {
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
        Err(Errno::STALE) => {
            Err(failure("mount", "/: the disk was written over another snapshot", Errno::STALE))
        }
        mounted => mounted.or_failure("mount", "/"),
    }
}

/// Brings what is mounted in the old root to the working directory, which is the new one. `own` is where the disk
/// is mounted: /proc leads there, so volumes are copied before anything moves.
fn carry(mounts: &[Mount], own: &str, volumes: &[Vec<u8>]) -> Result<(), Failure> {
    let root = mounts.iter().rev().find(|mount| mount.path == b"/");
    let root = root.ok_or_else(|| failure("find", "the mount of /", Errno::NOENT))?;
    // Others move with the mount that they are in.
    let mut copied = vec![root.id];
    for mount in mounts.iter() {
        let number = volumes.iter().position(|volume| *volume == mount.path);
        if let Some(number) = number.filter(|_| copied.contains(&mount.parent)) {
            copy(&format!("{own}/volume-{number}"), &mount.path)?;
            copied.push(mount.id);
        }
    }
    let moves = |mount: &&Mount| copied.contains(&mount.parent) && !copied.contains(&mount.id);
    for Mount { path: name, .. } in mounts.iter().filter(moves) {
        mount::mount(&path(name)?, &here(name)?, c"", nr::MS_MOVE, c"")
            .or_failure("mount", name)?;
    }
    Ok(())
}

/// Copies a volume of the image to its folder on the disk, unless it is there, and mounts it.
fn copy(own: &str, name: &[u8]) -> Result<(), Failure> {
    ensure_directory(&text_path(own)?)?;
    let files = format!("{own}/files");
    fill(files.as_bytes(), &directory(&path(name)?)?)?;
    mount::mount(&text_path(&files)?, &here(name)?, c"", nr::MS_BIND, c"").or_failure("mount", name)
}

/// An absolute path in the working directory.
fn here(name: &[u8]) -> Result<CString, Failure> {
    path(&[b".", name].concat())
}
