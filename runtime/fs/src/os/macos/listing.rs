//! Reading folders.
//!
//! A place that the file system chose holds only for one stream, and not beyond this process. So a place is
//! the number of items before it: the stream stays open between requests, and only a guest that goes
//! back, or continues from a snapshot, has the items before counted again.

use std::os::fd::OwnedFd;

use rustix::fs::{Dir, DirEntry, FileType};
use rustix::io::Errno;

use crate::os::unix::item::Item;

/// A folder that is being read.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    stream: Option<Stream>,
}

/// A folder's items, in a descriptor of its own.
#[derive(Debug)]
struct Stream {
    items: Dir,
    /// The number of items that were passed on.
    passed: u64,
    /// One that found no room.
    waiting: Option<DirEntry>,
}

impl Listing {
    /// Passes items from the one after `offset` others on, until `put` wants no more.
    ///
    /// # Errors
    /// The folder cannot be read, and no item was before.
    pub(crate) fn read(
        &mut self,
        file: &OwnedFd,
        offset: u64,
        mut put: impl FnMut(Item<'_>) -> bool,
    ) -> Result<(), Errno> {
        // A listing from the start shows what is new.
        let at_place = self.stream.take().filter(|stream| offset > 0 && stream.passed == offset);
        let mut stream = match at_place {
            Some(stream) => stream,
            None => Stream::at(file, offset)?,
        };
        let mut is_first = true;
        while let Some(item) = stream.next() {
            let item = match item {
                Ok(item) => item,
                // What was read before counts.
                Err(_) if !is_first => break,
                Err(errno) => return Err(errno),
            };
            let (inode, kind) = (item.ino(), kind_bits(item.file_type()));
            let (next, name) = (stream.passed + 1, item.file_name().to_bytes());
            if !put(Item { inode, next, kind, name }) {
                stream.waiting = Some(item);
                break;
            }
            stream.passed = next;
            is_first = false;
        }
        self.stream = Some(stream);
        Ok(())
    }
}

impl Stream {
    /// Opens a folder and skips items.
    fn at(file: &OwnedFd, offset: u64) -> Result<Self, Errno> {
        let mut stream = Self { items: Dir::read_from(file)?, passed: 0, waiting: None };
        while stream.passed < offset {
            match stream.next() {
                Some(item) => drop(item?),
                // There were more once. What follows is nothing.
                None => break,
            }
            stream.passed += 1;
        }
        Ok(stream)
    }

    fn next(&mut self) -> Option<Result<DirEntry, Errno>> {
        self.waiting.take().map(Ok).or_else(|| self.items.read())
    }
}

/// The kind of an item, as folders have it.
fn kind_bits(kind: FileType) -> u32 {
    match kind {
        FileType::Unknown => 0,
        kind => u32::from(kind.as_raw_mode()) >> 12,
    }
}
