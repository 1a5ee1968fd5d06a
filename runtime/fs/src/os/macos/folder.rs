//! How a name is followed, and how files of other kinds are made.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, openat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::calls::make_pipe;
use super::root::Found;
use crate::os::status::{PIPE, REGULAR};
use crate::os::unix::folder::{FIRST_MODE, Folder};

impl Folder {
    /// Finds the item of a name.
    pub(crate) fn child(&self, name: &CStr) -> Result<Found, Errno> {
        Found::named(fcntl_dupfd_cloexec(self, 0)?, name.into())
    }

    /// Makes a pipe or an empty file that only its owner may use.
    ///
    /// # Errors
    /// `EPERM` for a socket, which no call makes in an open folder.
    pub(crate) fn make_node(&self, name: &CStr, kind: u32) -> Result<(), Errno> {
        match kind {
            REGULAR => self.new_file(name, OFlags::RDONLY).map(drop),
            PIPE => make_pipe(self, name, FIRST_MODE.as_raw_mode()),
            _ => Err(Errno::PERM),
        }
    }

    /// Makes and opens a file that does not exist yet.
    pub(crate) fn new_file(&self, name: &CStr, access: OFlags) -> Result<OwnedFd, Errno> {
        let how = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(self, name, how, FIRST_MODE)
    }

    /// macOS has no files without a name.
    #[expect(clippy::unused_self, reason = "other systems make them")]
    pub(crate) fn unnamed_file(&self, _access: OFlags, _linkable: bool) -> Result<OwnedFd, Errno> {
        Err(Errno::NOSYS)
    }
}
