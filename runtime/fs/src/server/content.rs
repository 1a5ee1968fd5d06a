//! Open files: reading, writing, and all else that needs a handle.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{OFlags, SeekFrom, seek};
use rustix::io::{Errno, pread, pwrite};

use super::Server;
use crate::abi::{self, MAX_DATA};
use crate::flags::{kept, opening};
use crate::handles::Handle;
use crate::os::{self, FOLDER, Found, REGULAR};
use crate::reply::Reply;
use crate::request::{APPEND, Copy, Open, Write};

/// The most bytes that are copied at once: a thread works on it all the while.
const MAX_COPY: u64 = 64 << 20;
/// `whence` of a search for data, and for a hole.
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

impl Server {
    pub(super) fn open_file(&self, node: u64, open: Open) -> Result<Reply, Errno> {
        self.handles().check_room()?;
        let found = self.find(node)?;
        let file = self.open_found(&found, open)?;
        let handle = self.add_handle(Handle::new(node, kept(open.flags), false, file))?;
        Ok(Reply::opened(handle))
    }

    /// Opens what was found. Only a regular file has content that is not the guest's own matter.
    pub(super) fn open_found(&self, found: &Found, open: Open) -> Result<OwnedFd, Errno> {
        match found.status().kind() {
            REGULAR => {}
            FOLDER => return Err(Errno::ISDIR),
            _ => return Err(Errno::ACCESS),
        }
        let file = self.root.reopen(found, opening(open.flags)?)?;
        if open.clears_set_ids {
            self.clear_set_ids(found)?;
        }
        Ok(file)
    }

    pub(super) fn read(
        &self,
        handle: u64,
        offset: u64,
        size: u32,
        room: usize,
    ) -> Result<Reply, Errno> {
        let handle = self.handles().get(handle)?;
        let file = self.file_of(&handle)?;
        let size = usize::try_from(size.min(MAX_DATA)).unwrap_or(0).min(room);
        let mut reply = Reply::empty();
        reply.0.resize(abi::REPLY_HEADER + size, 0);
        let content = reply.0.get_mut(abi::REPLY_HEADER..).unwrap_or_default();
        let read = pread(file, content, offset)?;
        reply.0.truncate(abi::REPLY_HEADER + read);
        Ok(reply)
    }

    pub(super) fn write(&self, write: &Write<'_>) -> Result<Reply, Errno> {
        let handle = self.handles().get(write.handle)?;
        let file = self.file_of(&handle)?;
        // What comes from the guest's cache has its place, whatever the file is open for.
        let appends = write.flags & APPEND != 0 && !write.is_from_cache;
        let written = if appends {
            os::append(file, write.data, write.offset)?
        } else {
            pwrite(file, write.data, write.offset)?
        };
        if write.clears_set_ids {
            self.clear_set_ids(&Found::opened(file)?)?;
        }
        Ok(Reply::count(written))
    }

    pub(super) fn release(&self, id: u64) {
        let mut handles = self.handles();
        if let Some((closed, other)) = handles.remove(id) {
            self.nodes().release(closed.node, &closed, other);
        }
    }

    pub(super) fn sync(&self, handle: u64, only_data: bool) -> Result<Reply, Errno> {
        let handle = self.handles().get(handle)?;
        os::sync(self.file_of(&handle)?, only_data)?;
        Ok(Reply::empty())
    }

    pub(super) fn sync_all(&self) -> Result<Reply, Errno> {
        if self.is_read_only {
            return Ok(Reply::empty());
        }
        self.root.sync_all()?;
        Ok(Reply::empty())
    }

    pub(super) fn allocate(
        &self,
        handle: u64,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> Result<Reply, Errno> {
        let handle = self.handles().get(handle)?;
        os::allocate(self.file_of(&handle)?, mode, offset, length)?;
        Ok(Reply::empty())
    }

    pub(super) fn seek(&self, handle: u64, offset: u64, whence: u32) -> Result<Reply, Errno> {
        let handle = self.handles().get(handle)?;
        let to = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        Ok(Reply::offset(seek(self.file_of(&handle)?, to)?))
    }

    pub(super) fn copy(&self, copy: &Copy) -> Result<Reply, Errno> {
        let (from, to) = {
            let handles = self.handles();
            (handles.get(copy.from.0)?, handles.get(copy.to.0)?)
        };
        let (from, to) = (self.file_of(&from)?, self.file_of(&to)?);
        let length = usize::try_from(copy.length.min(MAX_COPY)).unwrap_or(0);
        let copied = os::copy((from, copy.from.1), (to, copy.to.1), length)?;
        Ok(Reply::count(copied))
    }

    /// Adds a handle, by which its file is reached from now on once it has no name.
    pub(super) fn add_handle(&self, handle: Handle) -> Result<u64, Errno> {
        let (node, mut handles) = (handle.node, self.handles());
        let (id, handle) = handles.add(handle)?;
        self.nodes().hold(node, handle);
        Ok(id)
    }

    /// The open file of a handle. That of a snapshot is opened with its first use.
    pub(super) fn file_of<'a>(&self, handle: &'a Arc<Handle>) -> Result<&'a OwnedFd, Errno> {
        if let Some(file) = handle.file.get() {
            return Ok(file);
        }
        let found = self.find(handle.node)?;
        let file = if handle.is_folder {
            self.root.reopen(&found, OFlags::DIRECTORY)?
        } else {
            self.open_found(&found, Open { flags: handle.flags, clears_set_ids: false })?
        };
        let file = handle.file.get_or_init(|| file);
        self.nodes().hold(handle.node, Arc::clone(handle));
        Ok(file)
    }
}
