//! The file system tree: mounts, directories, links, roots, and the machine's name and end.

use core::ffi::CStr;

use linux_raw_sys::general as nr;

use super::fd::Fd;
use super::{Result, call, flags, int};

/// Mounts `source` on `target`. `kind` and `data` may be empty.
pub(crate) fn mount(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    how: u32,
    data: &CStr,
) -> Result<()> {
    let arguments = [
        source.as_ptr() as usize,
        target.as_ptr() as usize,
        kind.as_ptr() as usize,
        flags(how),
        data.as_ptr() as usize,
        0,
    ];
    // SAFETY: all are terminated strings that outlive the call.
    unsafe { call(nr::__NR_mount, arguments) }.map(drop)
}

/// Unmounts `target` with all that is mounted below it, once nothing uses it.
pub(crate) fn unmount(target: &CStr) -> Result<()> {
    let arguments = [target.as_ptr() as usize, flags(nr::MNT_DETACH), 0, 0, 0, 0];
    // SAFETY: the path is a terminated string that outlives the call.
    unsafe { call(nr::__NR_umount2, arguments) }.map(drop)
}

/// Copies the mounts below `path`. The copy is part of no namespace, and lives as long as the
/// descriptor.
pub(crate) fn copy_tree(path: &CStr) -> Result<Fd> {
    let how = nr::OPEN_TREE_CLONE | nr::OPEN_TREE_CLOEXEC | nr::AT_RECURSIVE;
    let arguments = [int(nr::AT_FDCWD), path.as_ptr() as usize, flags(how), 0, 0, 0];
    // SAFETY: the path is a terminated string that outlives the call.
    unsafe { call(nr::__NR_open_tree, arguments) }.map(Fd::adopt)
}

/// Makes a directory the working directory and the root.
pub(crate) fn enter_root(directory: &Fd) -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe { call(nr::__NR_fchdir, [directory.register(), 0, 0, 0, 0, 0]) }?;
    change_root(c".")
}

/// Makes a directory.
pub(crate) fn make_directory(path: &CStr, mode: u32) -> Result<()> {
    make_directory_from(int(nr::AT_FDCWD), path, mode)
}

/// Makes a directory in a directory.
pub(crate) fn make_directory_at(directory: &Fd, name: &CStr, mode: u32) -> Result<()> {
    make_directory_from(directory.register(), name, mode)
}

fn make_directory_from(directory: usize, path: &CStr, mode: u32) -> Result<()> {
    let arguments = [directory, path.as_ptr() as usize, flags(mode), 0, 0, 0];
    // SAFETY: the path is a terminated string that outlives the call.
    unsafe { call(nr::__NR_mkdirat, arguments) }.map(drop)
}

/// Makes a symbolic link at `path` to `target`.
pub(crate) fn link(target: &CStr, path: &CStr) -> Result<()> {
    let arguments = [target.as_ptr() as usize, int(nr::AT_FDCWD), path.as_ptr() as usize, 0, 0, 0];
    // SAFETY: both are terminated strings that outlive the call.
    unsafe { call(nr::__NR_symlinkat, arguments) }.map(drop)
}

/// Sets a file's owner and mode.
pub(crate) fn set_owner_and_mode(path: &CStr, uid: u32, gid: u32, mode: u32) -> Result<()> {
    let name = path.as_ptr() as usize;
    let owner = [int(nr::AT_FDCWD), name, flags(uid), flags(gid), 0, 0];
    // SAFETY: the path is a terminated string that outlives the call.
    unsafe { call(nr::__NR_fchownat, owner) }?;
    // SAFETY: as above.
    unsafe { call(nr::__NR_fchmodat, [int(nr::AT_FDCWD), name, flags(mode), 0, 0, 0]) }.map(drop)
}

/// Returns a file's status.
pub(crate) fn status(path: &CStr) -> Result<nr::statx> {
    let mut status = core::mem::MaybeUninit::<nr::statx>::zeroed();
    let arguments = [
        int(nr::AT_FDCWD),
        path.as_ptr() as usize,
        0,
        flags(nr::STATX_BASIC_STATS),
        status.as_mut_ptr() as usize,
        0,
    ];
    // SAFETY: a terminated path, and room for one structure that the kernel fills.
    unsafe { call(nr::__NR_statx, arguments) }?;
    // SAFETY: the structure is plain numbers and was zeroed before.
    Ok(unsafe { status.assume_init() })
}

/// Changes the working directory.
pub(crate) fn change_directory(path: &CStr) -> Result<()> {
    // SAFETY: the path is a terminated string that outlives the call.
    unsafe { call(nr::__NR_chdir, [path.as_ptr() as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// Changes the root directory.
pub(crate) fn change_root(path: &CStr) -> Result<()> {
    // SAFETY: the path is a terminated string that outlives the call.
    unsafe { call(nr::__NR_chroot, [path.as_ptr() as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// Sets the machine's name.
pub(crate) fn set_hostname(name: &[u8]) -> Result<()> {
    // SAFETY: the kernel only reads the slice.
    unsafe { call(nr::__NR_sethostname, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0]) }
        .map(drop)
}

/// Writes back every dirty file.
pub(crate) fn sync() {
    // SAFETY: no memory is involved; the call cannot fail.
    let _ = unsafe { call(nr::__NR_sync, [0; 6]) };
}

/// Resets the machine, which stops it.
pub(crate) fn restart() -> ! {
    let magic = [nr::LINUX_REBOOT_MAGIC1, nr::LINUX_REBOOT_MAGIC2, nr::LINUX_REBOOT_CMD_RESTART];
    let [one, two, command] = magic.map(flags);
    loop {
        // SAFETY: no memory is involved.
        let _ = unsafe { call(nr::__NR_reboot, [one, two, command, 0, 0, 0]) };
        // SAFETY: as above. Reached only without the right to reset the machine.
        let _ = unsafe { call(nr::__NR_exit_group, [1, 0, 0, 0, 0, 0]) };
    }
}
