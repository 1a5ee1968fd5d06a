//! The file system tree: mounts, directories, links and roots, and the machine's end.
//!
//! Exiting is a call of our own: rustix has it for libc-like runtimes only.

use core::ffi::CStr;

use linux_raw_sys::general as nr;
use rustix::fs::{AtFlags, CWD, Mode, Statx, StatxFlags};
use rustix::mount::{MountFlags, OpenTreeFlags, UnmountFlags};
use rustix::process::{Gid, Uid};

use super::fd::Fd;
use super::{Result, call, flags};

/// Mounts `source` on `target`. `kind` and `data` may be empty.
pub(crate) fn mount(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    how: u32,
    data: &CStr,
) -> Result<()> {
    rustix::mount::mount(source, target, kind, MountFlags::from_bits_retain(how), data)
}

/// Unmounts `target` with all that is mounted below it, once nothing uses it.
pub(crate) fn unmount(target: &CStr) -> Result<()> {
    rustix::mount::unmount(target, UnmountFlags::DETACH)
}

/// Copies the mounts below `path`. The copy is part of no namespace, and lives as long as the
/// descriptor.
pub(crate) fn copy_tree(path: &CStr) -> Result<Fd> {
    let how = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(CWD, path, how)?.into())
}

/// Makes a directory the working directory and the root.
pub(crate) fn enter_root(directory: &Fd) -> Result<()> {
    rustix::process::fchdir(directory)?;
    rustix::process::chroot(c".")
}

/// Makes a directory.
pub(crate) fn make_directory(path: &CStr, mode: u32) -> Result<()> {
    rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode))
}

/// Makes a directory in a directory.
pub(crate) fn make_directory_at(directory: &Fd, name: &CStr, mode: u32) -> Result<()> {
    rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(mode))
}

/// Makes a symbolic link at `path` to `target`.
pub(crate) fn link(target: &CStr, path: &CStr) -> Result<()> {
    rustix::fs::symlinkat(target, CWD, path)
}

/// Sets a file's owner and mode.
pub(crate) fn set_owner_and_mode(path: &CStr, uid: u32, gid: u32, mode: u32) -> Result<()> {
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(CWD, path, owner.0, owner.1, AtFlags::empty())?;
    rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
}

/// Returns a file's status.
pub(crate) fn status(path: &CStr) -> Result<Statx> {
    rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)
}

/// Resets the machine, which stops it.
pub(crate) fn restart() -> ! {
    loop {
        let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
        // Reached only without the right to reset the machine.
        // SAFETY: no memory is involved.
        let _ = unsafe { call(nr::__NR_exit_group, [flags(1), 0, 0, 0, 0, 0]) };
    }
}
