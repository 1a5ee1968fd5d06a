//! Names: made, removed, moved, linked.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, linkat, mkdirat, mknodat, openat2,
    renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::{Found, Server};
use crate::handles::Handle;
use crate::reply::{FILE_TYPE, FOLDER, REGULAR, Reply};
use crate::request::{ACCESS_MODE, EXCLUSIVE, Open, READ_WRITE, TRUNCATE, WRITE_ONLY};
use crate::root::{FileId, Root, descriptor_name, status};

const PIPE: u32 = 0o010_000;
const SOCKET: u32 = 0o140_000;
/// The bits of a mode that a new file may have: none that has the host run a program as somebody.
const NEW_FILE: u32 = 0o1777;
/// A new folder may hand its group on.
const NEW_FOLDER: u32 = 0o3777;
/// The mode that something new has until it gets its own, which the process's mask does not change.
const FIRST_MODE: Mode = Mode::RWXU;
/// What a move may be: into a free place only, or in exchange for what is there.
const RENAME_FLAGS: u32 = 0b11;

impl Server {
    pub(super) fn make_link(
        &self,
        parent: u64,
        name: &CStr,
        target: &CStr,
    ) -> Result<Reply, Errno> {
        let _still = self.still();
        let folder = self.find_folder_still(parent)?;
        symlinkat(target, &folder, name)?;
        self.entry(&folder, parent, name)
    }

    pub(super) fn make_node(&self, parent: u64, name: &CStr, mode: u32) -> Result<Reply, Errno> {
        let kind = match mode & FILE_TYPE {
            0 | REGULAR => FileType::RegularFile,
            PIPE => FileType::Fifo,
            SOCKET => FileType::Socket,
            // A device of the host would be in reach of its users.
            _ => return Err(Errno::PERM),
        };
        let _still = self.still();
        let folder = self.find_folder_still(parent)?;
        mknodat(&folder, name, kind, FIRST_MODE, 0)?;
        self.finish_new(&folder, parent, name, mode & NEW_FILE)
    }

    pub(super) fn make_folder(&self, parent: u64, name: &CStr, mode: u32) -> Result<Reply, Errno> {
        let _still = self.still();
        let folder = self.find_folder_still(parent)?;
        mkdirat(&folder, name, FIRST_MODE)?;
        self.finish_new(&folder, parent, name, mode & NEW_FOLDER)
    }

    pub(super) fn unlink(&self, parent: u64, name: &CStr) -> Result<Reply, Errno> {
        unlinkat(self.find_folder(parent)?, name, AtFlags::empty())?;
        Ok(Reply::empty())
    }

    pub(super) fn remove_folder(&self, parent: u64, name: &CStr) -> Result<Reply, Errno> {
        unlinkat(self.find_folder(parent)?, name, AtFlags::REMOVEDIR)?;
        Ok(Reply::empty())
    }

    pub(super) fn rename(
        &self,
        (old_parent, old_name): (u64, &CStr),
        (new_parent, new_name): (u64, &CStr),
        flags: u32,
    ) -> Result<Reply, Errno> {
        let known = RenameFlags::from_bits(flags).filter(|_| flags & !RENAME_FLAGS == 0);
        let flags = known.ok_or(Errno::INVAL)?;
        let _alone = self.moves.write().unwrap_or_else(PoisonError::into_inner);
        let old_folder = self.find_folder_still(old_parent)?;
        let new_folder = self.find_folder_still(new_parent)?;
        let moved = file_at(&old_folder, old_name)?;
        let exchanged = file_at(&new_folder, new_name).ok();
        renameat_with(&old_folder, old_name, &new_folder, new_name, flags)?;
        let mut nodes = self.nodes();
        nodes.moved(moved, new_parent, new_name.to_bytes());
        if let Some(exchanged) = exchanged.filter(|_| flags.contains(RenameFlags::EXCHANGE)) {
            nodes.moved(exchanged, old_parent, old_name.to_bytes());
        }
        Ok(Reply::empty())
    }

    pub(super) fn link(&self, old: u64, parent: u64, name: &CStr) -> Result<Reply, Errno> {
        let _still = self.still();
        let file = self.find_still(old)?;
        if file.kind() == FOLDER {
            return Err(Errno::PERM);
        }
        let folder = self.find_folder_still(parent)?;
        let from = (self.root.descriptors(), descriptor_name(&file));
        linkat(from.0, from.1, &folder, name, AtFlags::SYMLINK_FOLLOW)?;
        self.entry(&folder, parent, name)
    }

    pub(super) fn create(
        &self,
        parent: u64,
        name: &CStr,
        open: Open,
        mode: u32,
    ) -> Result<Reply, Errno> {
        self.handles().check_room()?;
        let _still = self.still();
        let folder = self.find_folder_still(parent)?;
        let file = match new_file(&folder, name, open.flags) {
            Ok(file) => {
                self.set_new_mode(&file, mode)?;
                file
            }
            Err(Errno::EXIST) if open.flags & EXCLUSIVE == 0 => {
                let file = Root::child(&folder, name)?;
                let status = status(&file)?;
                let found = Found { file, status };
                self.open_found(&found, open)?
            }
            Err(errno) => return Err(errno),
        };
        let status = status(&file)?;
        let node = self.know(&status, Some((parent, name)))?;
        let handle = self.add_handle(Handle::new(node, kept(open.flags), false, file))?;
        Ok(Reply::created(node, &status, self.owner, handle))
    }

    pub(super) fn make_unnamed(&self, parent: u64, open: Open, mode: u32) -> Result<Reply, Errno> {
        self.handles().check_room()?;
        let folder = self.find_folder(parent)?;
        let how = OFlags::TMPFILE | access(open.flags)? | OFlags::CLOEXEC;
        let bounds =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        // The guest decides with `EXCLUSIVE` whether the file may get a name later.
        let how = if open.flags & EXCLUSIVE == 0 { how } else { how | OFlags::EXCL };
        let file = openat2(&folder, c".", how, FIRST_MODE, bounds)?;
        self.set_new_mode(&file, mode)?;
        let status = status(&file)?;
        let node = self.know(&status, None)?;
        let handle = self.add_handle(Handle::new(node, kept(open.flags), false, file))?;
        Ok(Reply::created(node, &status, self.owner, handle))
    }

    /// Gives something new its mode, and the guest its entry.
    fn finish_new(
        &self,
        folder: &Found,
        parent: u64,
        name: &CStr,
        mode: u32,
    ) -> Result<Reply, Errno> {
        let file = Root::child(folder, name)?;
        let found = Found { status: status(&file)?, file };
        self.set_mode(&found, mode)?;
        self.entry(folder, parent, name)
    }

    fn set_new_mode(&self, file: &OwnedFd, mode: u32) -> Result<(), Errno> {
        rustix::fs::fchmod(file, Mode::from_bits_truncate(mode & NEW_FILE))
    }
}

/// Makes a file that does not exist yet.
fn new_file(folder: &Found, name: &CStr, flags: u32) -> Result<OwnedFd, Errno> {
    let how = access(flags)? | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let bounds = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(folder, name, how, FIRST_MODE, bounds)
}

/// The file of a name.
fn file_at(folder: &Found, name: &CStr) -> Result<FileId, Errno> {
    Ok(FileId::of(&status(&Root::child(folder, name)?)?))
}

/// What a file is opened for on the host.
pub(super) fn access(flags: u32) -> Result<OFlags, Errno> {
    match flags & ACCESS_MODE {
        0 => Ok(OFlags::RDONLY),
        WRITE_ONLY => Ok(OFlags::WRONLY),
        READ_WRITE => Ok(OFlags::RDWR),
        _ => Err(Errno::INVAL),
    }
}

/// The flags that matter after a file is open.
pub(super) fn kept(flags: u32) -> u32 {
    flags & !(TRUNCATE | EXCLUSIVE)
}
