//! What an archive needs of the file system: entries of every kind, their names and marks.

use alloc::vec;
use alloc::vec::Vec;
use core::ffi::CStr;

use linux_raw_sys::general as nr;

use super::fd::{Fd, open};
use super::{Errno, Result, call, flags, int};

/// Room for directory entries that are fetched at once.
const ENTRIES: usize = 32 << 10;
/// Bytes of an entry before its name: number, offset, length, kind.
const ENTRY_HEAD: usize = 19;
/// The longest target of a symbolic link, with room to see that it is one.
const TARGET: usize = 4097;

/// What is known of a file; of a symbolic link itself.
pub(crate) fn link_status(path: &CStr) -> Result<nr::statx> {
    status_at(int(nr::AT_FDCWD), path, nr::AT_SYMLINK_NOFOLLOW)
}

/// What is known of an open file.
pub(crate) fn open_status(file: &Fd) -> Result<nr::statx> {
    status_at(file.register(), c"", nr::AT_EMPTY_PATH)
}

fn status_at(directory: usize, path: &CStr, how: u32) -> Result<nr::statx> {
    let mut status = core::mem::MaybeUninit::<nr::statx>::zeroed();
    let name = path.as_ptr() as usize;
    let room = status.as_mut_ptr() as usize;
    let arguments = [directory, name, flags(how), flags(nr::STATX_BASIC_STATS), room, 0];
    // SAFETY: a terminated path, and room for one structure that the kernel fills.
    unsafe { call(nr::__NR_statx, arguments) }?;
    // SAFETY: the structure is plain numbers and was zeroed before.
    Ok(unsafe { status.assume_init() })
}

/// Lists the names in a directory, sorted, without `.` and `..`.
pub(crate) fn names(path: &CStr) -> Result<Vec<Vec<u8>>> {
    let directory = open(path, nr::O_RDONLY | nr::O_DIRECTORY, 0)?;
    let mut names = Vec::new();
    let mut buffer = vec![0_u8; ENTRIES];
    loop {
        let address = buffer.as_mut_ptr() as usize;
        let arguments = [directory.register(), address, buffer.len(), 0, 0, 0];
        // SAFETY: the kernel writes at most the buffer's length into it.
        let count = unsafe { call(nr::__NR_getdents64, arguments) }?;
        if count == 0 {
            names.sort_unstable();
            return Ok(names);
        }
        let mut rest = buffer.split_at(count).0;
        while let Some((low, high)) = rest.get(16).zip(rest.get(17)) {
            let length = usize::from(u16::from_le_bytes([*low, *high]));
            let Some(entry) = rest.get(ENTRY_HEAD..length) else { return Err(Errno::EBADMSG) };
            let name = entry.split(|byte| *byte == 0).next().unwrap_or_default();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
            rest = rest.split_at(length).1;
        }
    }
}

/// Reads the target of a symbolic link.
pub(crate) fn link_target(path: &CStr) -> Result<Vec<u8>> {
    let mut target = vec![0_u8; TARGET];
    let (name, address) = (path.as_ptr() as usize, target.as_mut_ptr() as usize);
    let arguments = [int(nr::AT_FDCWD), name, address, target.len(), 0, 0];
    // SAFETY: a terminated path; the kernel writes at most the buffer's length into it.
    let length = unsafe { call(nr::__NR_readlinkat, arguments) }?;
    target.truncate(length);
    Ok(target)
}

/// Makes `path` another name of the file `existing`.
pub(crate) fn hard_link(existing: &CStr, path: &CStr) -> Result<()> {
    let here = int(nr::AT_FDCWD);
    let arguments = [here, existing.as_ptr() as usize, here, path.as_ptr() as usize, 0, 0];
    // SAFETY: both are terminated strings that outlive the call.
    unsafe { call(nr::__NR_linkat, arguments) }.map(drop)
}

/// Gives a file or directory another name in the same file system.
pub(crate) fn rename(existing: &CStr, path: &CStr) -> Result<()> {
    let here = int(nr::AT_FDCWD);
    let arguments = [here, existing.as_ptr() as usize, here, path.as_ptr() as usize, 0, 0];
    // SAFETY: both are terminated strings that outlive the call.
    unsafe { call(nr::__NR_renameat2, arguments) }.map(drop)
}

/// Removes what is not a directory.
pub(crate) fn unlink(path: &CStr) -> Result<()> {
    // SAFETY: the path is a terminated string that outlives the call.
    unsafe { call(nr::__NR_unlinkat, [int(nr::AT_FDCWD), path.as_ptr() as usize, 0, 0, 0, 0]) }
        .map(drop)
}

/// Makes a device or a fifo, as `mode` says.
pub(crate) fn make_node(path: &CStr, mode: u32, device: (u32, u32)) -> Result<()> {
    let (major, minor) = device;
    // As the kernel packs the two numbers.
    let number = (minor & 0xFF) | ((major & 0xFFF) << 8) | ((minor & !0xFF) << 12);
    let name = path.as_ptr() as usize;
    let arguments = [int(nr::AT_FDCWD), name, flags(mode), flags(number), 0, 0];
    // SAFETY: the path is a terminated string that outlives the call.
    unsafe { call(nr::__NR_mknodat, arguments) }.map(drop)
}

/// Sets the owner. Does not follow a symbolic link.
pub(crate) fn set_owner(path: &CStr, uid: u32, gid: u32) -> Result<()> {
    let name = path.as_ptr() as usize;
    let how = flags(nr::AT_SYMLINK_NOFOLLOW);
    let arguments = [int(nr::AT_FDCWD), name, flags(uid), flags(gid), how, 0];
    // SAFETY: the path is a terminated string that outlives the call.
    unsafe { call(nr::__NR_fchownat, arguments) }.map(drop)
}

/// Sets the mode. A symbolic link has no mode.
pub(crate) fn set_mode(path: &CStr, mode: u32) -> Result<()> {
    let arguments = [int(nr::AT_FDCWD), path.as_ptr() as usize, flags(mode), 0, 0, 0];
    // SAFETY: the path is a terminated string that outlives the call.
    unsafe { call(nr::__NR_fchmodat, arguments) }.map(drop)
}

/// Sets the modification time, in seconds and nanoseconds, and the access time to the present. Does
/// not follow a symbolic link.
pub(crate) fn set_time(path: &CStr, modified: (i64, u32)) -> Result<()> {
    let times: [i64; 4] = [0, i64::from(nr::UTIME_NOW), modified.0, i64::from(modified.1)];
    let name = path.as_ptr() as usize;
    let how = flags(nr::AT_SYMLINK_NOFOLLOW);
    let arguments = [int(nr::AT_FDCWD), name, times.as_ptr() as usize, how, 0, 0];
    // SAFETY: a terminated path, and two times of two 64-bit words each.
    unsafe { call(nr::__NR_utimensat, arguments) }.map(drop)
}
