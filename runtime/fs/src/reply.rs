//! What a guest is answered.

use std::time::Duration;

use rustix::io::Errno;
use supermachine_formats::codec::Put;

use crate::abi;
use crate::os::{Item, REGULAR, Sizes, Status, guest_errno};

/// How long a guest may use what it knows of names and folders. What it knows of a file's content and
/// attributes it asks for again.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// A reply that is being made: room for the header, then the content.
#[derive(Debug)]
pub(crate) struct Reply(pub(crate) Vec<u8>);

/// Whom the files belong to, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Reply {
    /// A reply without content.
    pub(crate) fn empty() -> Self {
        Self(vec![0; abi::REPLY_HEADER])
    }

    /// A reply with these bytes.
    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        let mut reply = Self::empty();
        reply.0.put(bytes);
        reply
    }

    /// The node and attributes of a name.
    pub(crate) fn entry(node: u64, status: &Status, owner: Owner) -> Self {
        let mut reply = Self::empty();
        reply.put_entry(node, status, owner);
        reply
    }

    /// The same, and a handle.
    pub(crate) fn created(node: u64, status: &Status, owner: Owner, handle: u64) -> Self {
        let mut reply = Self::entry(node, status, owner);
        reply.put_open(handle);
        reply
    }

    /// Attributes.
    pub(crate) fn attributes(status: &Status, owner: Owner) -> Self {
        let mut reply = Self::empty();
        reply.0.put_u64(known_for(status).as_secs());
        reply.0.put_u64(0);
        reply.put_attributes(status, owner);
        reply
    }

    /// A handle.
    pub(crate) fn opened(handle: u64) -> Self {
        let mut reply = Self::empty();
        reply.put_open(handle);
        reply
    }

    /// The number of bytes that were written, or that a value has.
    pub(crate) fn count(count: usize) -> Self {
        let mut reply = Self::empty();
        reply.0.put_u32(u32::try_from(count).unwrap_or(u32::MAX));
        reply.0.put_u32(0);
        reply
    }

    /// An offset.
    pub(crate) fn offset(offset: u64) -> Self {
        let mut reply = Self::empty();
        reply.0.put_u64(offset);
        reply
    }

    /// The file system's sizes.
    pub(crate) fn statistics(sizes: &Sizes) -> Self {
        let mut reply = Self::empty();
        let out = &mut reply.0;
        for count in [sizes.blocks, sizes.free_blocks, sizes.available_blocks] {
            out.put_u64(count);
        }
        for count in [sizes.files, sizes.free_files] {
            out.put_u64(count);
        }
        for size in [sizes.block_size, sizes.longest_name, sizes.fragment_size] {
            out.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
        }
        out.put(&[0; 28]);
        reply
    }

    /// What guest and server agree on.
    pub(crate) fn init(minor: u32, readahead: u32, features: u32) -> Self {
        let mut reply = Self::empty();
        let out = &mut reply.0;
        for word in [abi::MAJOR, minor, readahead, features] {
            out.put_u32(word);
        }
        // Requests in the background, and how many make a crowd: what the kernel has without a word.
        out.put_u16(0);
        out.put_u16(0);
        out.put_u32(abi::MAX_DATA);
        // Times are exact to the nanosecond.
        out.put_u32(1);
        out.put_u16(abi::MAX_PAGES);
        out.put(&[0; 34]);
        reply
    }

    /// An item of a folder. Returns `false` if it does not fit within `most` bytes of content.
    pub(crate) fn put_item(&mut self, item: &Item<'_>, most: usize) -> bool {
        let padding = item.name.len().wrapping_neg() % 8;
        let length = 24 + item.name.len() + padding;
        if self.0.len() - abi::REPLY_HEADER + length > most {
            return false;
        }
        self.0.put_u64(item.inode);
        self.0.put_u64(item.next);
        self.0.put_u32(u32::try_from(item.name.len()).unwrap_or(u32::MAX));
        self.0.put_u32(item.kind);
        self.0.put(item.name);
        self.0.resize(self.0.len() + padding, 0);
        true
    }

    /// The whole reply to a request.
    pub(crate) fn finish(mut self, unique: u64) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        set_header(&mut self.0, length, 0, unique);
        self.0
    }

    fn put_entry(&mut self, node: u64, status: &Status, owner: Owner) {
        let out = &mut self.0;
        out.put_u64(node);
        // Nodes are never used again for another file.
        out.put_u64(0);
        out.put_u64(KNOWN_FOR.as_secs());
        out.put_u64(known_for(status).as_secs());
        out.put_u64(0);
        self.put_attributes(status, owner);
    }

    fn put_open(&mut self, handle: u64) {
        // The guest's cache of the content starts anew at each opening.
        self.0.put_u64(handle);
        self.0.put_u64(0);
    }

    fn put_attributes(&mut self, status: &Status, owner: Owner) {
        let out = &mut self.0;
        let times = [status.accessed, status.modified, status.changed];
        for word in [status.inode, status.size, status.blocks] {
            out.put_u64(word);
        }
        for (seconds, _) in times {
            out.put_u64(seconds.cast_unsigned());
        }
        for (_, nanoseconds) in times {
            out.put_u32(nanoseconds);
        }
        let Status { mode, links, block_size, .. } = *status;
        let device = device_number(status.device);
        for word in [mode, links, owner.uid, owner.gid, device, block_size, 0] {
            out.put_u32(word);
        }
    }
}

/// The reply to a request that failed.
pub(crate) fn error(unique: u64, errno: Errno) -> Vec<u8> {
    let mut reply = vec![0; abi::REPLY_HEADER];
    let length = u32::try_from(abi::REPLY_HEADER).unwrap_or(0);
    set_header(&mut reply, length, guest_errno(errno).wrapping_neg(), unique);
    reply
}

fn set_header(reply: &mut [u8], length: u32, error: i32, unique: u64) {
    let words = [length.to_le_bytes(), error.to_le_bytes()];
    let header = words.into_iter().flatten().chain(unique.to_le_bytes());
    reply.iter_mut().zip(header).for_each(|(to, from)| *to = from);
}

/// How long the attributes may be used without asking again.
fn known_for(status: &Status) -> Duration {
    if status.kind() == REGULAR { Duration::ZERO } else { KNOWN_FOR }
}

/// A device number of the kernel's short form.
fn device_number((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12
}
