//! Reading folders.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Errno;

use crate::os::unix::item::Item;

/// The most bytes of items that are read at once. An item is longer in the reply, so that most of what is
/// read fits.
const MAX_ITEMS: usize = 32 << 10;

/// A folder that is being read. Its place is the descriptor's.
#[derive(Debug, Default)]
pub(crate) struct Listing;

impl Listing {
    /// Passes items from `offset` on, which the file system chose, until `put` wants no more.
    ///
    /// # Errors
    /// The folder cannot be read, and no item was before.
    #[expect(clippy::unused_self, reason = "other systems keep the place here")]
    pub(crate) fn read(
        &mut self,
        file: &OwnedFd,
        offset: u64,
        mut put: impl FnMut(Item<'_>) -> bool,
    ) -> Result<(), Errno> {
        seek(file, SeekFrom::Start(offset))?;
        let mut buffer = vec![MaybeUninit::uninit(); MAX_ITEMS];
        let mut items = RawDir::new(file, &mut buffer);
        let mut is_first = true;
        while let Some(item) = items.next() {
            let item = match item {
                Ok(item) => item,
                // What was read before counts.
                Err(_) if !is_first => break,
                Err(errno) => return Err(errno),
            };
            let (inode, next, kind) = (item.ino(), item.next_entry_cookie(), item.file_type());
            let name = item.file_name().to_bytes();
            if !put(Item { inode, next, kind: kind_bits(kind), name }) {
                break;
            }
            is_first = false;
        }
        Ok(())
    }
}

/// The kind of an item, as folders have it.
fn kind_bits(kind: FileType) -> u32 {
    match kind {
        FileType::Unknown => 0,
        kind => kind.as_raw_mode() >> 12,
    }
}
