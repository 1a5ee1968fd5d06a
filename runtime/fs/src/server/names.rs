//! Names: made, removed, moved, linked.

use std::ffi::CStr;
use std::sync::PoisonError;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::Server;
use crate::flags::{access, kept, moving};
use crate::handles::Handle;
use crate::os::{FILE_TYPE, FOLDER, FileId, Folder, PIPE, REGULAR, SOCKET, set_open_mode, status};
use crate::reply::Reply;
use crate::request::{EXCLUSIVE, Open};

/// The bits of a mode that a new file may have: none that has the host run a program as somebody.
const NEW_FILE: u32 = 0o1777;
/// A new folder may hand its group on.
const NEW_FOLDER: u32 = 0o3777;

impl Server {
    pub(super) fn make_link(
        &self,
        parent: u64,
        name: &CStr,
        target: &CStr,
    ) -> Result<Reply, Errno> {
        let _still = self.still();
        let folder = self.find_folder_still(parent)?;
        folder.make_link(name, target)?;
        self.entry(&folder, parent, name)
    }

    pub(super) fn make_node(&self, parent: u64, name: &CStr, mode: u32) -> Result<Reply, Errno> {
        let kind = match mode & FILE_TYPE {
            0 | REGULAR => REGULAR,
            kind @ (PIPE | SOCKET) => kind,
            // A device of the host would be in reach of its users.
            _ => return Err(Errno::PERM),
        };
        let _still = self.still();
        let folder = self.find_folder_still(parent)?;
        folder.make_node(name, kind)?;
        self.finish_new(&folder, parent, name, mode & NEW_FILE)
    }

    pub(super) fn make_folder(&self, parent: u64, name: &CStr, mode: u32) -> Result<Reply, Errno> {
        let _still = self.still();
        let folder = self.find_folder_still(parent)?;
        folder.make_folder(name)?;
        self.finish_new(&folder, parent, name, mode & NEW_FOLDER)
    }

    pub(super) fn unlink(&self, parent: u64, name: &CStr) -> Result<Reply, Errno> {
        self.find_folder(parent)?.unlink(name)?;
        Ok(Reply::empty())
    }

    pub(super) fn remove_folder(&self, parent: u64, name: &CStr) -> Result<Reply, Errno> {
        self.find_folder(parent)?.remove_folder(name)?;
        Ok(Reply::empty())
    }

    pub(super) fn rename(
        &self,
        (old_parent, old_name): (u64, &CStr),
        (new_parent, new_name): (u64, &CStr),
        flags: u32,
    ) -> Result<Reply, Errno> {
        let flags = moving(flags)?;
        let _alone = self.moves.write().unwrap_or_else(PoisonError::into_inner);
        let old_folder = self.find_folder_still(old_parent)?;
        let new_folder = self.find_folder_still(new_parent)?;
        let moved = file_at(&old_folder, old_name)?;
        let exchanged = file_at(&new_folder, new_name).ok();
        old_folder.rename(old_name, &new_folder, new_name, flags)?;
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
        if file.status().kind() == FOLDER {
            return Err(Errno::PERM);
        }
        let folder = self.find_folder_still(parent)?;
        self.root.link(&file, &folder, name)?;
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
        let file = match folder.new_file(name, access(open.flags)?) {
            Ok(file) => {
                set_open_mode(&file, mode & NEW_FILE)?;
                file
            }
            Err(Errno::EXIST) if open.flags & EXCLUSIVE == 0 => {
                self.open_found(&folder.child(name)?, open)?
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
        // The guest decides with `EXCLUSIVE` whether the file may get a name later.
        let is_linkable = open.flags & EXCLUSIVE == 0;
        let file = folder.unnamed_file(access(open.flags)?, is_linkable)?;
        set_open_mode(&file, mode & NEW_FILE)?;
        let status = status(&file)?;
        let node = self.know(&status, None)?;
        let handle = self.add_handle(Handle::new(node, kept(open.flags), false, file))?;
        Ok(Reply::created(node, &status, self.owner, handle))
    }

    /// Gives something new its mode, and the guest its entry.
    fn finish_new(
        &self,
        folder: &Folder,
        parent: u64,
        name: &CStr,
        mode: u32,
    ) -> Result<Reply, Errno> {
        self.set_mode(&folder.child(name)?, mode)?;
        self.entry(folder, parent, name)
    }
}

/// The file of a name.
fn file_at(folder: &Folder, name: &CStr) -> Result<FileId, Errno> {
    Ok(FileId::of(folder.child(name)?.status()))
}
