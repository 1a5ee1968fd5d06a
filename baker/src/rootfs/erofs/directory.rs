//! Directories as blocks of entries.
//!
//! Distributes entries over blocks and encodes blocks. Invariants: names, including `.` and `..`, ascend
//! bytewise over the whole directory, as the kernel uses binary search; a block contains the names of
//! its entries.

use super::super::tree::{InodeId, Tree};
use super::format::{BLOCK, DIRENT, FileType, put_dirent};

/// A name and its inode.
pub(super) type Entry<'t> = (&'t [u8], InodeId);

/// A directory's sorted entries, including `.` and `..`.
pub(super) fn entries(tree: &Tree, directory: InodeId, parent: InodeId) -> Vec<Entry<'_>> {
    let children = tree.children(directory).into_iter().flatten();
    let mut entries: Vec<Entry<'_>> =
        children.map(|(name, link)| (name.as_ref(), link.inode)).collect();
    entries.extend([(b".".as_slice(), directory), (b"..", parent)]);
    entries.sort_unstable_by_key(|(name, _)| *name);
    entries
}

/// Splits `entries` into blocks.
pub(super) fn blocks<'a, 't>(
    entries: &'a [Entry<'t>],
) -> impl Iterator<Item = &'a [Entry<'t>]> + use<'a, 't> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let mut used = 0;
        let fitting = rest.iter().take_while(|(name, _)| {
            used += DIRENT + name.len();
            used <= BLOCK
        });
        let (block, after) = rest.split_at_checked(fitting.count())?;
        rest = after;
        (!block.is_empty()).then_some(block)
    })
}

/// The bytes that the entries of one block take.
pub(super) fn used(block: &[Entry<'_>]) -> usize {
    block.iter().map(|(name, _)| DIRENT + name.len()).sum()
}

/// Appends one block, [`used`] bytes.
pub(super) fn encode(
    block: &[Entry<'_>],
    describe: impl Fn(InodeId) -> (u64, FileType),
    out: &mut Vec<u8>,
) {
    let mut name_start = block.len() * DIRENT;
    for (name, id) in block {
        let (inode, file_type) = describe(*id);
        // Below BLOCK, so it fits 16 bits.
        put_dirent(out, inode, u16::try_from(name_start).unwrap_or(u16::MAX), file_type);
        name_start += name.len();
    }
    for (name, _) in block {
        out.extend(*name);
    }
}
