//! How a name is followed, and how files of other kinds are made.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, mknodat, openat2};
use rustix::io::Errno;

use super::root::{BOUNDS, Found, step};
use crate::os::status::{PIPE, SOCKET};
use crate::os::unix::folder::{FIRST_MODE, Folder};

impl Folder {
    /// Finds the item of a name.
    pub(crate) fn child(&self, name: &CStr) -> Result<Found, Errno> {
        Found::new(step(self, name.to_bytes())?)
    }

    /// Makes a pipe, a socket or an empty file that only its owner may use.
    pub(crate) fn make_node(&self, name: &CStr, kind: u32) -> Result<(), Errno> {
        let kind = match kind {
            PIPE => FileType::Fifo,
            SOCKET => FileType::Socket,
            _ => FileType::RegularFile,
        };
        mknodat(self, name, kind, FIRST_MODE, 0)
    }

    /// Makes and opens a file that does not exist yet.
    pub(crate) fn new_file(&self, name: &CStr, access: OFlags) -> Result<OwnedFd, Errno> {
        let how = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(self, name, how, FIRST_MODE, BOUNDS)
    }

    /// Makes and opens a file without a name. It may get one later if it is `linkable`.
    pub(crate) fn unnamed_file(&self, access: OFlags, linkable: bool) -> Result<OwnedFd, Errno> {
        let how = OFlags::TMPFILE | access | OFlags::CLOEXEC;
        let how = if linkable { how } else { how | OFlags::EXCL };
        openat2(self, c".", how, FIRST_MODE, BOUNDS)
    }
}
