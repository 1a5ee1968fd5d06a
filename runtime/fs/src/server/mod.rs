//! The server of one guest: answers its requests from the shared folder.
//!
//! Any number of threads may ask it at once. What it does to the host's files, it does as this process's
//! user; the guest's kernel checks the rights of the guest's users beforehand.
//!
//! Locks: `moves` is held for reading while a path is walked, and for writing while the guest moves a file,
//! so that no path is looked for where it is no longer. It comes before `handles`, and that before `nodes`;
//! those two are held for moments only.

mod attributes;
mod content;
mod folder;
mod names;
#[cfg(test)]
mod tests;

use std::ffi::CStr;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use rustix::io::Errno;
use supermachine_formats::snapshot::device::{ShareHandle, ShareNode};

use crate::abi;
use crate::folder::{FolderError, HostFolder};
use crate::handles::Handles;
use crate::nodes::Nodes;
use crate::os::{FileId, Folder, Found, Root, Status};
use crate::reply::{self, Owner, Reply};
use crate::request::{Header, Operation};

/// Answers the requests of one guest.
#[derive(Debug)]
pub struct Server {
    root: Root,
    is_read_only: bool,
    owner: Owner,
    moves: RwLock<()>,
    handles: Mutex<Handles>,
    nodes: Mutex<Nodes>,
}

/// What a guest knows of a folder, for a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The files that it knows.
    pub nodes: Vec<ShareNode>,
    /// The files that it has open.
    pub handles: Vec<ShareHandle>,
}

impl Server {
    /// A server for a guest that knows nothing of the folder yet.
    ///
    /// # Errors
    /// The folder cannot be shared.
    pub fn open(folder: &HostFolder) -> Result<Self, FolderError> {
        Self::with(folder, Nodes::new(), Handles::new())
    }

    /// A server for the guest of a snapshot. What it knew is looked for in this folder when it is used.
    ///
    /// # Errors
    /// The folder cannot be shared.
    pub fn resume(folder: &HostFolder, known: &Known) -> Result<Self, FolderError> {
        let (nodes, handles) = (&known.nodes, &known.handles);
        Self::with(folder, Nodes::from_state(nodes), Handles::from_state(handles))
    }

    fn with(folder: &HostFolder, nodes: Nodes, handles: Handles) -> Result<Self, FolderError> {
        Ok(Self {
            root: folder.open()?,
            is_read_only: folder.is_read_only(),
            owner: folder.owner(),
            moves: RwLock::default(),
            handles: Mutex::new(handles),
            nodes: Mutex::new(nodes),
        })
    }

    /// What the guest knows of the folder.
    #[must_use]
    pub fn known(&self) -> Known {
        let handles = self.handles().state();
        Known { nodes: self.nodes().state(), handles }
    }

    /// Answers a request. `room` is the most bytes that the answer may have. It is empty for a request that
    /// wants none, or that is too short to be answered.
    #[must_use]
    pub fn answer(&self, request: &[u8], room: usize) -> Vec<u8> {
        let Some((header, body)) = Header::split(request) else { return Vec::new() };
        let forgets = [abi::operation::FORGET, abi::operation::BATCH_FORGET];
        let done = Operation::read(header.operation, body).and_then(|operation| {
            if self.is_read_only && operation.writes() {
                return Err(Errno::ROFS);
            }
            self.serve(header.node, operation, room.saturating_sub(abi::REPLY_HEADER))
        });
        if forgets.contains(&header.operation) {
            return Vec::new();
        }
        let answer = match done {
            Ok(reply) => reply.finish(header.unique),
            Err(errno) => reply::error(header.unique, errno),
        };
        match answer.len() {
            length if length <= room => answer,
            // The guest left less room than its own request needs.
            _ if room >= abi::REPLY_HEADER => reply::error(header.unique, Errno::IO),
            _ => Vec::new(),
        }
    }

    fn serve(&self, node: u64, operation: Operation<'_>, room: usize) -> Result<Reply, Errno> {
        match operation {
            Operation::Init { major, minor, readahead, features } => {
                self.init(major, minor, readahead, features)
            }
            Operation::Destroy => {
                self.forget_everything();
                Ok(Reply::empty())
            }
            Operation::Lookup { name } => self.lookup(node, name),
            Operation::Forget { count } => {
                self.nodes().forget(node, count);
                Ok(Reply::empty())
            }
            Operation::ForgetAll(batch) => {
                let mut nodes = self.nodes();
                batch.into_iter().for_each(|(node, count)| nodes.forget(node, count));
                Ok(Reply::empty())
            }
            Operation::GetAttributes { handle } => self.get_attributes(node, handle),
            Operation::SetAttributes(wanted) => self.set_attributes(node, &wanted),
            Operation::ReadLink => self.read_link(node),
            Operation::Statistics => self.statistics(node),
            Operation::SetValue { name, value, flags } => self.set_value(node, name, value, flags),
            Operation::Value { name, size } => self.value(node, name, size),
            Operation::ValueNames { size } => self.value_names(node, size),
            Operation::RemoveValue { name } => self.remove_value(node, name),
            Operation::MakeLink { name, target } => self.make_link(node, name, target),
            Operation::MakeNode { name, mode } => self.make_node(node, name, mode),
            Operation::MakeFolder { name, mode } => self.make_folder(node, name, mode),
            Operation::Unlink { name } => self.unlink(node, name),
            Operation::RemoveFolder { name } => self.remove_folder(node, name),
            Operation::Rename { name, folder, new_name, flags } => {
                self.rename((node, name), (folder, new_name), flags)
            }
            Operation::Link { node: old, name } => self.link(old, node, name),
            Operation::Create { name, open, mode } => self.create(node, name, open, mode),
            Operation::MakeUnnamed { open, mode } => self.make_unnamed(node, open, mode),
            Operation::Open(open) => self.open_file(node, open),
            Operation::OpenFolder(open) => self.open_folder(node, open),
            Operation::Read { handle, offset, size } => self.read(handle, offset, size, room),
            Operation::ReadFolder { handle, offset, size } => {
                self.read_folder(handle, offset, size, room)
            }
            Operation::Write(write) => self.write(&write),
            Operation::Release { handle } => {
                self.release(handle);
                Ok(Reply::empty())
            }
            Operation::Sync { handle, only_data } => self.sync(handle, only_data),
            Operation::SyncAll => self.sync_all(),
            Operation::Allocate { handle, offset, length, mode } => {
                self.allocate(handle, offset, length, mode)
            }
            Operation::Seek { handle, offset, whence } => self.seek(handle, offset, whence),
            Operation::Copy(copy) => self.copy(&copy),
        }
    }

    /// A guest that mounts the folder knows nothing of it.
    fn init(&self, major: u32, minor: u32, readahead: u32, features: u32) -> Result<Reply, Errno> {
        if major < abi::MAJOR || (major == abi::MAJOR && minor < abi::OLDEST_MINOR) {
            return Err(Errno::PROTO);
        }
        self.forget_everything();
        let minor =
            if major == abi::MAJOR { minor.min(abi::NEWEST_MINOR) } else { abi::NEWEST_MINOR };
        Ok(Reply::init(minor, readahead, features & abi::feature::WANTED))
    }

    fn forget_everything(&self) {
        let mut handles = self.handles();
        *self.nodes() = Nodes::new();
        *handles = Handles::new();
    }

    /// Finds the file of a node: by its name, or by a handle if it has none any more.
    fn find(&self, node: u64) -> Result<Found, Errno> {
        let _still = self.still();
        self.find_still(node)
    }

    /// The same, while nothing is moved.
    fn find_still(&self, node: u64) -> Result<Found, Errno> {
        let location = self.nodes().locate(node)?;
        let named = location.path.as_ref().map(|path| self.root.walk(path));
        let failure = match named {
            Some(Ok(found)) => {
                let id = FileId::of(found.status());
                match location.file {
                    Some(file) if file != id => Errno::STALE,
                    Some(_) => return Ok(found),
                    None => {
                        self.nodes().identify(node, id);
                        return Ok(found);
                    }
                }
            }
            Some(Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV)) | None => {
                Errno::STALE
            }
            Some(Err(errno)) => errno,
        };
        let handle = location.held.ok_or(failure)?;
        Found::opened(handle.file.get().ok_or(failure)?)
    }

    /// Finds a folder.
    fn find_folder(&self, node: u64) -> Result<Folder, Errno> {
        let _still = self.still();
        self.find_folder_still(node)
    }

    fn find_folder_still(&self, node: u64) -> Result<Folder, Errno> {
        self.find_still(node)?.into_folder()
    }

    fn lookup(&self, parent: u64, name: &CStr) -> Result<Reply, Errno> {
        let _still = self.still();
        let folder = self.find_folder_still(parent)?;
        self.entry(&folder, parent, name)
    }

    /// The entry of a name in a folder, of which the guest has one more reference then.
    fn entry(&self, folder: &Folder, parent: u64, name: &CStr) -> Result<Reply, Errno> {
        let found = folder.child(name)?;
        let node = self.know(found.status(), Some((parent, name)))?;
        Ok(Reply::entry(node, found.status(), self.owner))
    }

    fn know(&self, status: &Status, place: Option<(u64, &CStr)>) -> Result<u64, Errno> {
        let place = place.map(|(parent, name)| (parent, name.to_bytes()));
        let id = FileId::of(status);
        self.nodes().know(id, place)
    }

    /// Keeps what the guest moves where it is.
    fn still(&self) -> RwLockReadGuard<'_, ()> {
        self.moves.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handles(&self) -> MutexGuard<'_, Handles> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
