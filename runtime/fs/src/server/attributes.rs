//! Attributes, extended attributes, and the sizes of the file system.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{
    OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fgetxattr, flistxattr, fremovexattr,
    fsetxattr, ftruncate,
};
use rustix::io::Errno;

use super::Server;
use crate::flags::setting;
use crate::os::{FOLDER, Found, REGULAR, status};
use crate::reply::Reply;
use crate::request::{ACCESS_MODE, READ_ONLY, SetAttributes, Time};

/// The bits of a mode that `chmod` sets.
const MODE_BITS: u32 = 0o7777;
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
/// The attributes that a guest may use: those of users. Others mean something to the host.
const OF_USERS: &[u8] = b"user.";
/// The longest list of names, and the longest value, as in Linux.
const MAX_LIST: usize = 64 << 10;

impl Server {
    pub(super) fn get_attributes(&self, node: u64, handle: Option<u64>) -> Result<Reply, Errno> {
        let reply = |status| Ok(Reply::attributes(status, self.owner));
        match handle.and_then(|handle| self.handles().get(handle).ok()) {
            Some(handle) => reply(&status(self.file_of(&handle)?)?),
            None => reply(self.find(node)?.status()),
        }
    }

    pub(super) fn set_attributes(&self, node: u64, wanted: &SetAttributes) -> Result<Reply, Errno> {
        let found = self.find(node)?;
        self.check_owner(wanted)?;
        if let Some(mode) = wanted.mode {
            self.set_mode(&found, mode)?;
        }
        if let Some(size) = wanted.size {
            self.set_size(&found, wanted.handle, size)?;
        }
        if wanted.clears_set_ids {
            self.clear_set_ids(&found)?;
        }
        if (wanted.accessed, wanted.modified) != (Time::Keep, Time::Keep) {
            let times = Timestamps {
                last_access: timespec(wanted.accessed),
                last_modification: timespec(wanted.modified),
            };
            self.root.set_times(&found, &times)?;
        }
        Ok(Reply::attributes(&found.status_now()?, self.owner))
    }

    pub(super) fn read_link(&self, node: u64) -> Result<Reply, Errno> {
        Ok(Reply::bytes(&self.find(node)?.read_link()?))
    }

    pub(super) fn statistics(&self, node: u64) -> Result<Reply, Errno> {
        Ok(Reply::statistics(&self.find(node)?.sizes()?))
    }

    pub(super) fn set_value(
        &self,
        node: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> Result<Reply, Errno> {
        check_name(name)?;
        fsetxattr(self.valued(node)?, name, value, setting(flags)?)?;
        Ok(Reply::empty())
    }

    pub(super) fn value(&self, node: u64, name: &CStr, size: u32) -> Result<Reply, Errno> {
        check_name(name)?;
        let mut value = vec![0; MAX_LIST];
        let length = fgetxattr(self.valued(node)?, name, &mut *value)?;
        value.truncate(length);
        sized(&value, size)
    }

    pub(super) fn value_names(&self, node: u64, size: u32) -> Result<Reply, Errno> {
        let file = match self.valued(node) {
            // Links, pipes and sockets have none that users may set.
            Err(Errno::OPNOTSUPP) => return sized(&[], size),
            file => file?,
        };
        let mut list = vec![0; MAX_LIST];
        let length = flistxattr(file, &mut *list)?;
        list.truncate(length);
        let names =
            list.split_inclusive(|byte| *byte == 0).filter(|name| name.starts_with(OF_USERS));
        sized(&names.collect::<Vec<_>>().concat(), size)
    }

    pub(super) fn remove_value(&self, node: u64, name: &CStr) -> Result<Reply, Errno> {
        check_name(name)?;
        fremovexattr(self.valued(node)?, name)?;
        Ok(Reply::empty())
    }

    /// Clears the bits that make a program run as its owner, as Linux does when a file is written.
    pub(super) fn clear_set_ids(&self, found: &Found) -> Result<(), Errno> {
        let status = found.status();
        let mode = status.mode & MODE_BITS;
        if status.kind() == REGULAR && mode & (SET_UID | SET_GID) != 0 {
            self.root.set_mode(found, mode & !(SET_UID | SET_GID))?;
        }
        Ok(())
    }

    /// Sets a mode, but no bit that would have the host run a program as this process's user.
    pub(super) fn set_mode(&self, found: &Found, mode: u32) -> Result<(), Errno> {
        let mode = mode & MODE_BITS;
        let (present, kind) = (found.status().mode, found.status().kind());
        let refused = if kind == FOLDER { SET_UID } else { SET_UID | SET_GID };
        if mode & !present & refused != 0 {
            return Err(Errno::PERM);
        }
        if kind != REGULAR && kind != FOLDER && mode == present & MODE_BITS {
            return Ok(());
        }
        self.root.set_mode(found, mode)
    }

    /// All files have one owner, which can be set again but not changed.
    fn check_owner(&self, wanted: &SetAttributes) -> Result<(), Errno> {
        let is_kept = wanted.uid.is_none_or(|uid| uid == self.owner.uid)
            && wanted.gid.is_none_or(|gid| gid == self.owner.gid);
        if is_kept { Ok(()) } else { Err(Errno::PERM) }
    }

    fn set_size(&self, found: &Found, handle: Option<u64>, size: u64) -> Result<(), Errno> {
        if found.status().kind() != REGULAR {
            return Err(Errno::INVAL);
        }
        let handle = handle.and_then(|handle| self.handles().get(handle).ok());
        let writable = handle.filter(|handle| handle.flags & ACCESS_MODE != READ_ONLY);
        match writable {
            Some(handle) => ftruncate(self.file_of(&handle)?, size),
            None => ftruncate(self.root.reopen(found, OFlags::WRONLY)?, size),
        }
    }

    /// Opens a file for its extended attributes.
    fn valued(&self, node: u64) -> Result<OwnedFd, Errno> {
        let found = self.find(node)?;
        match found.status().kind() {
            REGULAR | FOLDER => self.root.reopen(&found, OFlags::RDONLY),
            _ => Err(Errno::OPNOTSUPP),
        }
    }
}

/// Whether a guest may use an extended attribute.
fn check_name(name: &CStr) -> Result<(), Errno> {
    if name.to_bytes().starts_with(OF_USERS) { Ok(()) } else { Err(Errno::OPNOTSUPP) }
}

/// A value, or its size if the guest asks with a size of zero.
fn sized(value: &[u8], size: u32) -> Result<Reply, Errno> {
    match usize::try_from(size).unwrap_or(usize::MAX) {
        0 => Ok(Reply::count(value.len())),
        size if value.len() > size => Err(Errno::RANGE),
        _ => Ok(Reply::bytes(value)),
    }
}

fn timespec(time: Time) -> Timespec {
    match time {
        Time::Keep => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Time::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Time::At(tv_sec, nanoseconds) => Timespec { tv_sec, tv_nsec: nanoseconds.into() },
    }
}
