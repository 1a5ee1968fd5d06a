//! The names in a folder: what is made, removed and moved in the same way on all Unix systems. Each system
//! adds how a name is followed, and how files of other kinds are made.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, RenameFlags, mkdirat, renameat_with, symlinkat, unlinkat};
use rustix::io::Errno;

/// The mode that something new has until it gets its own, which the process's mask does not change.
pub(in crate::os) const FIRST_MODE: Mode = Mode::RWXU;

/// A folder whose names are used. A name is one step in it.
#[derive(Debug)]
pub(crate) struct Folder(pub(in crate::os) OwnedFd);

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Folder {
    /// Makes a symbolic link.
    pub(crate) fn make_link(&self, name: &CStr, target: &CStr) -> Result<(), Errno> {
        symlinkat(target, self, name)
    }

    /// Makes a folder that only its owner may enter.
    pub(crate) fn make_folder(&self, name: &CStr) -> Result<(), Errno> {
        mkdirat(self, name, FIRST_MODE)
    }

    /// Removes what is no folder.
    pub(crate) fn unlink(&self, name: &CStr) -> Result<(), Errno> {
        unlinkat(self, name, AtFlags::empty())
    }

    /// Removes an empty folder.
    pub(crate) fn remove_folder(&self, name: &CStr) -> Result<(), Errno> {
        unlinkat(self, name, AtFlags::REMOVEDIR)
    }

    /// Moves a name to another folder.
    pub(crate) fn rename(
        &self,
        name: &CStr,
        folder: &Self,
        new_name: &CStr,
        how: RenameFlags,
    ) -> Result<(), Errno> {
        renameat_with(self, name, folder, new_name, how)
    }
}
