//! The shared folder, and the path to what is in it.
//!
//! Every path starts at the folder's descriptor and is walked by the kernel, which refuses `..`, symbolic
//! links and whatever leads out of the folder (`openat2` with `RESOLVE_BENEATH`). What it leads to is opened
//! without effect first (`O_PATH`), so that no device, pipe or link of the host is ever used.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat, openat2, statx,
};
use rustix::io::Errno;

use crate::reply::FILE_TYPE;

/// The most bytes that the kernel walks at once.
const MAX_WALK: usize = 3800;
/// The most bytes of a path: deeper folders cannot be made over a share.
pub(crate) const MAX_PATH: usize = 64 << 10;

/// A shared folder.
#[derive(Debug)]
pub(crate) struct Root {
    folder: OwnedFd,
    /// Where this process's descriptors have names.
    descriptors: OwnedFd,
}

/// What identifies a file while it exists, and tells it from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    device: (u32, u32),
    inode: u64,
    kind: u32,
    born: (i64, u32),
}

impl FileId {
    pub(crate) fn of(status: &Statx) -> Self {
        let has_birth = status.stx_mask & StatxFlags::BTIME.bits() != 0;
        let born = (status.stx_btime.tv_sec, status.stx_btime.tv_nsec);
        Self {
            device: (status.stx_dev_major, status.stx_dev_minor),
            inode: status.stx_ino,
            kind: u32::from(status.stx_mode) & FILE_TYPE,
            born: if has_birth { born } else { (0, 0) },
        }
    }
}

impl Root {
    /// Opens the folder at a path of the host, which may lead through links.
    ///
    /// # Errors
    /// There is none, the user may not enter it, or the system lacks `openat2` or `/proc`.
    pub(crate) fn open(path: &Path) -> Result<Self, Errno> {
        let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, path, how, Mode::empty())?;
        let descriptors = openat(CWD, c"/proc/self/fd", how, Mode::empty())?;
        let root = Self { folder, descriptors };
        // Whether the user may look into it and the kernel knows the call.
        root.reopen(&root.walk(b"")?, OFlags::DIRECTORY)?;
        Ok(root)
    }

    /// Opens what a path leads to: names with slashes between them, or the folder itself.
    pub(crate) fn walk(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut rest = path;
        let mut reached: Option<OwnedFd> = None;
        while rest.len() > MAX_WALK {
            let (piece, later) = split(rest).ok_or(Errno::NAMETOOLONG)?;
            let from = reached.as_ref().unwrap_or(&self.folder);
            reached = Some(step(from, piece)?);
            rest = later;
        }
        let rest = if rest.is_empty() { b"." } else { rest };
        step(reached.as_ref().unwrap_or(&self.folder), rest)
    }

    /// Opens an item of a folder.
    pub(crate) fn child(folder: &impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
        step(folder, name.to_bytes())
    }

    /// Opens again what is open without effect. Only for regular files and folders.
    pub(crate) fn reopen(&self, file: &impl AsFd, how: OFlags) -> Result<OwnedFd, Errno> {
        let how = how | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        openat(&self.descriptors, descriptor_name(file), how, Mode::empty())
    }

    /// Where the names of [`descriptor_name`] lead to their files.
    pub(crate) fn descriptors(&self) -> &OwnedFd {
        &self.descriptors
    }
}

/// The name of an open file in the folder of descriptors. It leads to the file itself, whatever it is.
pub(crate) fn descriptor_name(file: &impl AsFd) -> String {
    file.as_fd().as_raw_fd().to_string()
}

/// The attributes of an open file.
pub(crate) fn status(file: &impl AsFd) -> Result<Statx, Errno> {
    statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

fn step(folder: &impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let bounds = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(folder, path, how, Mode::empty(), bounds)
}

/// Splits a path at the last slash that the kernel walks to at once.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = path.get(..MAX_WALK)?.iter().rposition(|byte| *byte == b'/')?;
    Some((path.get(..at)?, path.get(at + 1..)?))
}
