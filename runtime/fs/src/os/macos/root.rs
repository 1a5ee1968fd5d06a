//! The shared folder, and the path to what is in it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Stat, Timestamps, chmodat, fchmod, fstat, fstatfs, ftruncate,
    futimens, linkat, major, minor, openat, readlinkat, statat, utimensat,
};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::calls::sync_volume;
use super::numbers;
use crate::os::status::{FOLDER, FileId, Sizes, Status};
use crate::os::unix::folder::Folder;
use crate::os::unix::pieces;

/// The most bytes that the kernel walks at once: `PATH_MAX` is 1024.
const MAX_WALK: usize = 1000;
/// The kind of a symbolic link.
const LINK: u32 = 0o120_000;
/// `NAME_MAX`.
const LONGEST_NAME: u64 = 255;
/// No part of a path may be a link. macOS 11 and newer have it, and with it all arm64 Macs.
const NOFOLLOW_ANY: OFlags = OFlags::from_bits_retain(0x2000_0000);
/// How a folder is opened for its names.
const AS_FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A shared folder.
#[derive(Debug)]
pub(crate) struct Root {
    folder: OwnedFd,
}

impl Root {
    /// Opens the folder at a path of the host, which may lead through links.
    ///
    /// # Errors
    /// There is none, or the user may not read it.
    pub(crate) fn open(path: &Path) -> Result<Self, Errno> {
        Ok(Self { folder: openat(CWD, path, AS_FOLDER, Mode::empty())? })
    }

    /// Finds what a path leads to: names with slashes between them, or the folder itself.
    pub(crate) fn walk(&self, path: &[u8]) -> Result<Found, Errno> {
        let mut parts = path.rsplitn(2, |byte| *byte == b'/');
        let name = parts.next().filter(|name| !name.is_empty()).unwrap_or(b".");
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let above = match parts.next() {
            Some(above) => pieces::walk(&self.folder, above, MAX_WALK, enter)?,
            None => fcntl_dupfd_cloexec(&self.folder, 0)?,
        };
        Found::named(above, name)
    }

    /// Opens what was found. Only for regular files and folders.
    #[expect(clippy::unused_self, reason = "other systems open files by way of it")]
    pub(crate) fn reopen(&self, found: &Found, how: OFlags) -> Result<OwnedFd, Errno> {
        found.open(how)
    }

    /// Sets a mode. That of a link cannot be set, as on Linux.
    #[expect(clippy::unused_self, reason = "other systems reach files by way of it")]
    pub(crate) fn set_mode(&self, found: &Found, mode: u32) -> Result<(), Errno> {
        let mode = numbers::mode(mode);
        match &found.place {
            Place::Name(..) if found.status.kind() == LINK => Err(Errno::OPNOTSUPP),
            Place::Name(folder, name) => chmodat(folder, name, mode, AtFlags::SYMLINK_NOFOLLOW),
            Place::Open(file) => fchmod(file, mode),
        }
    }

    /// Sets times.
    #[expect(clippy::unused_self, reason = "other systems reach files by way of it")]
    pub(crate) fn set_times(&self, found: &Found, times: &Timestamps) -> Result<(), Errno> {
        match &found.place {
            Place::Name(folder, name) => utimensat(folder, name, times, AtFlags::SYMLINK_NOFOLLOW),
            Place::Open(file) => futimens(file, times),
        }
    }

    /// Gives what was found another name. What has none any more cannot get one.
    #[expect(clippy::unused_self, reason = "other systems reach files by way of it")]
    pub(crate) fn link(&self, found: &Found, folder: &Folder, name: &CStr) -> Result<(), Errno> {
        match &found.place {
            Place::Name(from, old) => linkat(from, old, folder, name, AtFlags::empty()),
            Place::Open(_) => Err(Errno::NOENT),
        }
    }

    /// Writes the whole file system to its disk.
    pub(crate) fn sync_all(&self) -> Result<(), Errno> {
        sync_volume(&self.folder)
    }
}

/// A file that a request is about.
#[derive(Debug)]
pub(crate) struct Found {
    place: Place,
    status: Status,
}

/// Where it is.
#[derive(Debug)]
enum Place {
    /// A name in a folder.
    Name(OwnedFd, CString),
    /// Nowhere any more: the file of a handle.
    Open(OwnedFd),
}

impl Found {
    /// What has this name in a folder, which may be the folder itself.
    pub(super) fn named(folder: OwnedFd, name: CString) -> Result<Self, Errno> {
        let status = plain(&statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW)?);
        Ok(Self { place: Place::Name(folder, name), status })
    }

    /// The file of a handle.
    pub(crate) fn opened(file: &OwnedFd) -> Result<Self, Errno> {
        let file = fcntl_dupfd_cloexec(file, 0)?;
        let status = status(&file)?;
        Ok(Self { place: Place::Open(file), status })
    }

    /// The attributes that it had when it was found.
    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// The attributes that it has now.
    pub(crate) fn status_now(&self) -> Result<Status, Errno> {
        match &self.place {
            Place::Name(folder, name) => {
                Ok(plain(&statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?))
            }
            Place::Open(file) => status(file),
        }
    }

    /// The same, as a folder.
    pub(crate) fn into_folder(self) -> Result<Folder, Errno> {
        if self.status.kind() == FOLDER {
            self.open(AS_FOLDER).map(Folder)
        } else {
            Err(Errno::NOTDIR)
        }
    }

    /// The target of a symbolic link.
    pub(crate) fn read_link(&self) -> Result<Vec<u8>, Errno> {
        match &self.place {
            Place::Name(folder, name) => Ok(readlinkat(folder, name, Vec::new())?.into_bytes()),
            Place::Open(_) => Err(Errno::INVAL),
        }
    }

    /// The sizes of its file system. The counts of `fstatvfs` are too small for large ones.
    pub(crate) fn sizes(&self) -> Result<Sizes, Errno> {
        let (Place::Name(file, _) | Place::Open(file)) = &self.place;
        let sizes = fstatfs(file)?;
        Ok(Sizes {
            blocks: sizes.f_blocks,
            free_blocks: sizes.f_bfree,
            available_blocks: sizes.f_bavail,
            files: sizes.f_files,
            free_files: sizes.f_ffree,
            block_size: sizes.f_bsize.into(),
            fragment_size: sizes.f_bsize.into(),
            longest_name: LONGEST_NAME,
        })
    }

    /// Opens it, if it is still what was found. It is emptied only after that is known.
    fn open(&self, how: OFlags) -> Result<OwnedFd, Errno> {
        let empties = how.contains(OFlags::TRUNC);
        let how = how.difference(OFlags::TRUNC);
        let file = match &self.place {
            Place::Name(folder, name) => {
                let careful = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
                openat(folder, name, how | careful | OFlags::CLOEXEC, Mode::empty())?
            }
            // It cannot be opened again. The guest's kernel keeps to what it opened the file for.
            Place::Open(file) => fcntl_dupfd_cloexec(file, 0)?,
        };
        if FileId::of(&status(&file)?) != FileId::of(&self.status) {
            return Err(Errno::STALE);
        }
        if empties {
            ftruncate(&file, 0)?;
        }
        Ok(file)
    }
}

/// The attributes of an open file.
pub(crate) fn status(file: &impl AsFd) -> Result<Status, Errno> {
    Ok(plain(&fstat(file)?))
}

fn plain(status: &Stat) -> Status {
    let time = |seconds, nanoseconds| (seconds, u32::try_from(nanoseconds).unwrap_or(0));
    let (home, device) = (status.st_dev, status.st_rdev);
    Status {
        inode: status.st_ino,
        size: u64::try_from(status.st_size).unwrap_or(0),
        blocks: u64::try_from(status.st_blocks).unwrap_or(0),
        block_size: u32::try_from(status.st_blksize).unwrap_or(0),
        mode: status.st_mode.into(),
        links: status.st_nlink.into(),
        home: (major(home), minor(home)),
        device: (major(device), minor(device)),
        accessed: time(status.st_atime, status.st_atime_nsec),
        modified: time(status.st_mtime, status.st_mtime_nsec),
        changed: time(status.st_ctime, status.st_ctime_nsec),
        // A file that is given an older time of change gets that as its birth too, so it cannot identify the
        // file. APFS uses no number twice; where a file system does, a later file may be taken for this one.
        born: (0, 0),
    }
}

/// Opens a folder further down, without a link on the way.
fn enter(folder: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    if path.split(|byte| *byte == b'/').any(|name| name == b"..") {
        return Err(Errno::XDEV);
    }
    openat(folder, path, AS_FOLDER | NOFOLLOW_ANY, Mode::empty())
}
