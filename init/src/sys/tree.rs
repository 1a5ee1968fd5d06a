//! What an archive needs of the file system: entries of every kind, their names and marks.

use alloc::vec::Vec;
use core::ffi::CStr;
use core::mem::MaybeUninit;

use linux_raw_sys::general as nr;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, RawDir, RenameFlags, Statx, StatxFlags, Timespec, Timestamps,
};
use rustix::process::{Gid, Uid};

use super::Result;
use super::fd::{Fd, open};

/// Room for directory entries that are fetched at once.
const ENTRIES: usize = 32 << 10;

/// What is known of a file; of a symbolic link itself.
pub(crate) fn link_status(path: &CStr) -> Result<Statx> {
    rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
}

/// What is known of an open file.
pub(crate) fn open_status(file: &Fd) -> Result<Statx> {
    rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

/// Lists the names in a directory, sorted, without `.` and `..`.
pub(crate) fn names(path: &CStr) -> Result<Vec<Vec<u8>>> {
    let directory = open(path, nr::O_RDONLY | nr::O_DIRECTORY, 0)?;
    let mut room: Vec<MaybeUninit<u8>> = Vec::new();
    room.resize(ENTRIES, MaybeUninit::uninit());
    let mut entries = RawDir::new(&directory, &mut room);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Reads the target of a symbolic link.
pub(crate) fn link_target(path: &CStr) -> Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(CWD, path, Vec::new())?.into_bytes())
}

/// Makes `path` another name of the file `existing`.
pub(crate) fn hard_link(existing: &CStr, path: &CStr) -> Result<()> {
    rustix::fs::linkat(CWD, existing, CWD, path, AtFlags::empty())
}

/// Gives a file or directory another name in the same file system.
pub(crate) fn rename(existing: &CStr, path: &CStr) -> Result<()> {
    rustix::fs::renameat_with(CWD, existing, CWD, path, RenameFlags::empty())
}

/// Removes what is not a directory.
pub(crate) fn unlink(path: &CStr) -> Result<()> {
    rustix::fs::unlinkat(CWD, path, AtFlags::empty())
}

/// Makes a device or a fifo, as `mode` says.
pub(crate) fn make_node(path: &CStr, mode: u32, device: (u32, u32)) -> Result<()> {
    let (kind, mode) = (FileType::from_raw_mode(mode), Mode::from_raw_mode(mode));
    rustix::fs::mknodat(CWD, path, kind, mode, rustix::fs::makedev(device.0, device.1))
}

/// Sets the owner. Does not follow a symbolic link.
pub(crate) fn set_owner(path: &CStr, uid: u32, gid: u32) -> Result<()> {
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(CWD, path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
}

/// Sets the mode. A symbolic link has no mode.
pub(crate) fn set_mode(path: &CStr, mode: u32) -> Result<()> {
    rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
}

/// Sets the modification time, in seconds and nanoseconds, and the access time to the present. Does
/// not follow a symbolic link.
pub(crate) fn set_time(path: &CStr, modified: (i64, u32)) -> Result<()> {
    let last_access = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let last_modification = Timespec { tv_sec: modified.0, tv_nsec: modified.1.into() };
    let times = Timestamps { last_access, last_modification };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}
