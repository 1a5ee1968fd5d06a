//! Reading folders.

use std::mem::MaybeUninit;
use std::sync::PoisonError;

use rustix::fs::{FileType, OFlags, RawDir, SeekFrom, seek};
use rustix::io::Errno;

use super::Server;
use crate::abi::ROOT;
use crate::handles::Handle;
use crate::reply::{Item, Reply};
use crate::request::Open;
use crate::root::status;

/// The most bytes of items that are read at once. An item is longer in the reply, so that most of what is
/// read fits.
const MAX_ITEMS: usize = 32 << 10;

impl Server {
    pub(super) fn open_folder(&self, node: u64, open: Open) -> Result<Reply, Errno> {
        self.handles().check_room()?;
        let found = self.find_folder(node)?;
        let file = self.root.reopen(&found, OFlags::DIRECTORY)?;
        let handle = self.add_handle(Handle::new(node, open.flags, true, file))?;
        Ok(Reply::opened(handle))
    }

    /// The items of a folder from `offset` on, which the host's file system chose.
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
        let _reading = handle.reading.lock().unwrap_or_else(PoisonError::into_inner);
        seek(file, SeekFrom::Start(offset))?;
        let mut reply = Reply::empty();
        let mut buffer = vec![MaybeUninit::uninit(); MAX_ITEMS];
        let mut items = RawDir::new(file, &mut buffer);
        while let Some(item) = items.next() {
            let item = match item {
                Ok(item) => item,
                // What was read before counts.
                Err(_) if reply.0.len() > crate::abi::REPLY_HEADER => break,
                Err(errno) => return Err(errno),
            };
            let name = item.file_name().to_bytes();
            // What is above the shared folder is none of the guest's business.
            let is_above = handle.node == ROOT && name == b"..";
            let inode = if is_above { status(file)?.stx_ino } else { item.ino() };
            let (next, kind) = (item.next_entry_cookie(), kind(item.file_type()));
            if !reply.put_item(&Item { inode, next, kind, name }, most) {
                break;
            }
        }
        Ok(reply)
    }
}

/// The kind of an item, as folders have it.
fn kind(kind: FileType) -> u32 {
    match kind {
        FileType::Unknown => 0,
        kind => kind.as_raw_mode() >> 12,
    }
}
