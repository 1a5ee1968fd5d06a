//! What a folder's listing consists of.

/// An item of a folder.
#[derive(Debug)]
pub(crate) struct Item<'a> {
    pub(crate) inode: u64,
    /// Where the next item is.
    pub(crate) next: u64,
    /// The four bits of a mode that say what it is, or zero.
    pub(crate) kind: u32,
    pub(crate) name: &'a [u8],
}
