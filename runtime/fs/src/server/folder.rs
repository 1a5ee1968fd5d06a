//! Reading folders.

use std::sync::PoisonError;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Server;
use crate::abi::ROOT;
use crate::handles::Handle;
use crate::os::{FOLDER, status};
use crate::reply::Reply;
use crate::request::Open;

impl Server {
    pub(super) fn open_folder(&self, node: u64, open: Open) -> Result<Reply, Errno> {
        self.handles().check_room()?;
        let found = self.find(node)?;
        if found.status().kind() != FOLDER {
            return Err(Errno::NOTDIR);
        }
        let file = self.root.reopen(&found, OFlags::DIRECTORY)?;
        let handle = self.add_handle(Handle::new(node, open.flags, true, file))?;
        Ok(Reply::opened(handle))
    }

    /// The items of a folder from `offset` on, which an earlier item had as its next one.
    pub(super) fn read_folder(
        &self,
        handle: u64,
        offset: u64,
        size: u32,
        room: usize,
    ) -> Result<Reply, Errno> {
        let handle = self.handles().get(handle)?;
        if !handle.is_folder {
            return Err(Errno::NOTDIR);
        }
        let most = usize::try_from(size).unwrap_or(usize::MAX).min(room);
        let file = self.file_of(&handle)?;
        let mut listing = handle.listing.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut reply, mut outcome) = (Reply::empty(), Ok(()));
        listing.read(file, offset, |mut item| {
            // What is above the shared folder is none of the guest's business.
            if handle.node == ROOT && item.name == b".." {
                match status(file) {
                    Ok(status) => item.inode = status.inode,
                    Err(errno) => {
                        outcome = Err(errno);
                        return false;
                    }
                }
            }
            reply.put_item(&item, most)
        })?;
        outcome.map(|()| reply)
    }
}
