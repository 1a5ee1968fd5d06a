//! The shared folder, and the path to what is in it.
//!
//! Every path starts at the folder's descriptor and is walked by the kernel, which refuses `..`, symbolic
//! links and whatever leads out of the folder (`openat2` with `RESOLVE_BENEATH`). What it leads to is opened
//! without effect first (`O_PATH`), so that no device, pipe or link of the host is ever used.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, Timestamps, chmodat, fstatvfs,
    linkat, openat, openat2, readlinkat, statx, syncfs, utimensat,
};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use crate::os::status::{FOLDER, Sizes, Status};
use crate::os::unix::folder::Folder;
use crate::os::unix::pieces;

/// The most bytes that the kernel walks at once.
const MAX_WALK: usize = 3800;
/// What a step must not do.
pub(super) const BOUNDS: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A shared folder.
#[derive(Debug)]
pub(crate) struct Root {
    folder: OwnedFd,
    /// Where this process's descriptors have names.
    descriptors: OwnedFd,
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
        root.open_itself()?;
        Ok(root)
    }

    /// Finds what a path leads to: names with slashes between them, or the folder itself.
    pub(crate) fn walk(&self, path: &[u8]) -> Result<Found, Errno> {
        Found::new(self.reach(path)?)
    }

    /// Opens what was found. Only for regular files and folders.
    pub(crate) fn reopen(&self, found: &Found, how: OFlags) -> Result<OwnedFd, Errno> {
        self.reopen_file(found, how)
    }

    /// Sets a mode.
    pub(crate) fn set_mode(&self, found: &Found, mode: u32) -> Result<(), Errno> {
        let (name, mode) = (descriptor_name(found), Mode::from_bits_truncate(mode));
        chmodat(&self.descriptors, name, mode, AtFlags::empty())
    }

    /// Sets times.
    pub(crate) fn set_times(&self, found: &Found, times: &Timestamps) -> Result<(), Errno> {
        utimensat(&self.descriptors, descriptor_name(found), times, AtFlags::empty())
    }

    /// Gives what was found another name.
    pub(crate) fn link(&self, found: &Found, folder: &Folder, name: &CStr) -> Result<(), Errno> {
        let from = descriptor_name(found);
        linkat(&self.descriptors, from, folder, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Writes the whole file system to its disk.
    pub(crate) fn sync_all(&self) -> Result<(), Errno> {
        syncfs(self.open_itself()?)
    }

    fn open_itself(&self) -> Result<OwnedFd, Errno> {
        self.reopen_file(&self.reach(b"")?, OFlags::DIRECTORY)
    }

    fn reach(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        pieces::walk(&self.folder, path, MAX_WALK, step)
    }

    fn reopen_file(&self, file: &impl AsFd, how: OFlags) -> Result<OwnedFd, Errno> {
        let how = how | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        openat(&self.descriptors, descriptor_name(file), how, Mode::empty())
    }
}

/// A file that a request is about.
#[derive(Debug)]
pub(crate) struct Found {
    /// Open without effect, or the same file as a handle's if it has no name any more.
    file: OwnedFd,
    status: Status,
}

impl AsFd for Found {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Found {
    pub(super) fn new(file: OwnedFd) -> Result<Self, Errno> {
        let status = status(&file)?;
        Ok(Self { file, status })
    }

    /// The file of a handle.
    pub(crate) fn opened(file: &OwnedFd) -> Result<Self, Errno> {
        Self::new(fcntl_dupfd_cloexec(file, 0)?)
    }

    /// The attributes that it had when it was found.
    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// The attributes that it has now.
    pub(crate) fn status_now(&self) -> Result<Status, Errno> {
        status(&self.file)
    }

    /// The same, as a folder.
    pub(crate) fn into_folder(self) -> Result<Folder, Errno> {
        if self.status.kind() == FOLDER { Ok(Folder(self.file)) } else { Err(Errno::NOTDIR) }
    }

    /// The target of a symbolic link.
    pub(crate) fn read_link(&self) -> Result<Vec<u8>, Errno> {
        Ok(readlinkat(self, c"", Vec::new())?.into_bytes())
    }

    /// The sizes of its file system.
    pub(crate) fn sizes(&self) -> Result<Sizes, Errno> {
        let sizes = fstatvfs(self)?;
        Ok(Sizes {
            blocks: sizes.f_blocks,
            free_blocks: sizes.f_bfree,
            available_blocks: sizes.f_bavail,
            files: sizes.f_files,
            free_files: sizes.f_ffree,
            block_size: sizes.f_bsize,
            fragment_size: sizes.f_frsize,
            longest_name: sizes.f_namemax,
        })
    }
}

/// The attributes of an open file.
pub(crate) fn status(file: &impl AsFd) -> Result<Status, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    Ok(plain(&statx(file, c"", AtFlags::EMPTY_PATH, wanted)?))
}

fn plain(status: &Statx) -> Status {
    let time = |time: &rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
    let has_birth = status.stx_mask & StatxFlags::BTIME.bits() != 0;
    Status {
        inode: status.stx_ino,
        size: status.stx_size,
        blocks: status.stx_blocks,
        block_size: status.stx_blksize,
        mode: status.stx_mode.into(),
        links: status.stx_nlink,
        home: (status.stx_dev_major, status.stx_dev_minor),
        device: (status.stx_rdev_major, status.stx_rdev_minor),
        accessed: time(&status.stx_atime),
        modified: time(&status.stx_mtime),
        changed: time(&status.stx_ctime),
        born: if has_birth { time(&status.stx_btime) } else { (0, 0) },
    }
}

/// The name of an open file in the folder of descriptors. It leads to the file itself, whatever it is.
fn descriptor_name(file: &impl AsFd) -> String {
    file.as_fd().as_raw_fd().to_string()
}

pub(super) fn step(folder: &impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(folder, path, how, Mode::empty(), BOUNDS)
}
