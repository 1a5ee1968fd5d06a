//! Where everything of an image goes, before a byte is written.
//!
//! Owns the order of inodes and the placing of inodes and data. Writes nothing.
//!
//! ```text
//! block 0   superblock
//! block 1…  inodes with attributes, short directories, link targets, chunk tables
//! then      directory blocks and file contents, in the order of their inodes
//! end       zeros up to a multiple of 2 MiB
//! ```
//!
//! Invariants: placing depends on the tree alone; the root comes first, so that its number
//! fits the superblock; contents of regular files start on blocks of their own, so that a
//! guest can map them without copying.

use super::super::error::Error;
use super::super::spool::Content;
use super::super::tree::{Inode, InodeId, Metadata, Node, Tree};
use super::format::{
    BLOCK, BLOCK_U64, CHUNK_ENTRY, FileType, INODE, Layout, NULL_ADDRESS, SLOT, chunk_format,
    device_number,
};
use super::{directory, xattr};

/// The multiple in which virtio-pmem devices are sized.
pub(super) const ALIGNMENT: u64 = 2 << 20;
/// What one image may take.
const MAX_IMAGE: u64 = 64 << 30;
/// Holes smaller than this are written as zeros: plain files map best and serve kernels
/// that know no chunks.
const WORTHWHILE_HOLES: u64 = 16 << 20;
/// Chunks are as small as this while the table stays short.
const MIN_CHUNK_BITS: u32 = 16;
const MAX_CHUNKS: u64 = 1 << 14;

/// The whole image, placed.
#[derive(Debug)]
pub(super) struct Plan<'t> {
    /// Inodes in the order in which they lie in the image.
    pub(super) inodes: Vec<Placed<'t>>,
    /// For each inode of the tree, its place in `inodes`.
    places: Vec<Option<u32>>,
    /// The first block after the inodes.
    pub(super) data_start: u64,
    /// The image's size, padding included.
    pub(super) size: u64,
    pub(super) chunked: bool,
}

/// One inode, placed.
#[derive(Debug)]
pub(super) struct Placed<'t> {
    pub(super) id: InodeId,
    pub(super) metadata: &'t Metadata,
    /// Where the inode starts, in bytes.
    pub(super) position: u64,
    pub(super) links: u32,
    pub(super) attributes: usize,
    pub(super) size: u64,
    pub(super) layout: Layout,
    pub(super) locator: u32,
    /// The directory above, for directories.
    pub(super) parent: InodeId,
    pub(super) body: Body<'t>,
}

/// What an inode's data is made of.
#[derive(Debug)]
pub(super) enum Body<'t> {
    Directory,
    File(&'t Content),
    Chunks { content: &'t Content, bits: u32, table: Vec<u32> },
    Symlink(&'t [u8]),
    CharDevice,
    BlockDevice,
    Fifo,
}

impl<'t> Plan<'t> {
    /// Places all that can be reached from the root.
    pub(super) fn new(tree: &'t Tree) -> Result<Self, Error> {
        let (inodes, places) = collect(tree);
        let mut plan = Self { inodes, places, data_start: 0, size: 0, chunked: false };
        plan.place_inodes(tree);
        plan.place_data()?;
        Ok(plan)
    }

    /// An inode's number and type, as directories name them.
    pub(super) fn describe(&self, id: InodeId) -> (u64, FileType) {
        let place = self.places.get(id.index()).copied().flatten();
        // Every inode that a directory names was collected.
        let placed = place.and_then(|place| self.inodes.get(place as usize));
        placed.map_or((0, FileType::Regular), |placed| (placed.number(), placed.file_type()))
    }

    fn place_inodes(&mut self, tree: &Tree) {
        let mut position = BLOCK_U64;
        for placed in &mut self.inodes {
            let fixed = INODE + placed.attributes;
            let inline = placed.choose_layout(tree, fixed);
            let left = BLOCK_U64 - position % BLOCK_U64;
            // Nothing that one block can hold crosses into the next.
            if (fixed + inline) as u64 > left {
                position = position.next_multiple_of(BLOCK_U64);
            }
            placed.position = position;
            position = (position + (fixed + inline) as u64).next_multiple_of(SLOT);
            self.chunked |= placed.layout == Layout::Chunks;
        }
        self.data_start = position.div_ceil(BLOCK_U64);
    }

    fn place_data(&mut self) -> Result<(), Error> {
        let mut next = self.data_start;
        for placed in &mut self.inodes {
            let blocks = match &mut placed.body {
                Body::Chunks { bits, table, .. } => place_chunks(placed.size, *bits, table, next),
                Body::Directory | Body::Symlink(_) | Body::File(_) => {
                    let blocks = match placed.layout {
                        Layout::Inline => placed.size / BLOCK_U64,
                        _ => placed.size.div_ceil(BLOCK_U64),
                    };
                    if blocks > 0 {
                        placed.locator = address(next);
                    }
                    blocks
                }
                _ => 0,
            };
            next = next.saturating_add(blocks);
            let size = next.saturating_mul(BLOCK_U64);
            if size > MAX_IMAGE {
                return Err(Error::ImageTooLarge { size, limit: MAX_IMAGE });
            }
        }
        self.size = (next * BLOCK_U64).next_multiple_of(ALIGNMENT);
        Ok(())
    }
}

impl<'t> Placed<'t> {
    fn new(id: InodeId, inode: &'t Inode, parent: InodeId) -> Self {
        let (body, size, locator) = match &inode.node {
            Node::Directory(_) => (Body::Directory, 0, 0),
            Node::File(content) => match chunks(content) {
                Some((bits, table)) => {
                    (Body::Chunks { content, bits, table }, content.size, chunk_format(bits))
                }
                None => (Body::File(content), content.size, 0),
            },
            Node::Symlink(target) => (Body::Symlink(target), target.len() as u64, 0),
            Node::CharDevice { major, minor } => {
                (Body::CharDevice, 0, device_number(*major, *minor))
            }
            Node::BlockDevice { major, minor } => {
                (Body::BlockDevice, 0, device_number(*major, *minor))
            }
            Node::Fifo => (Body::Fifo, 0, 0),
        };
        let metadata = &inode.metadata;
        let attributes = xattr::encoded_size(&metadata.attributes);
        let layout = Layout::Plain;
        Self {
            id,
            metadata,
            position: 0,
            links: 0,
            attributes,
            size,
            layout,
            locator,
            parent,
            body,
        }
    }

    /// The number by which directories name the inode.
    pub(super) fn number(&self) -> u64 {
        self.position / SLOT
    }

    pub(super) fn file_type(&self) -> FileType {
        match self.body {
            Body::Directory => FileType::Directory,
            Body::File(_) | Body::Chunks { .. } => FileType::Regular,
            Body::Symlink(_) => FileType::Symlink,
            Body::CharDevice => FileType::CharDevice,
            Body::BlockDevice => FileType::BlockDevice,
            Body::Fifo => FileType::Fifo,
        }
    }

    /// Decides the layout and says how many bytes follow the inode's `fixed` ones.
    fn choose_layout(&mut self, tree: &Tree, fixed: usize) -> usize {
        let tail = match &self.body {
            Body::Chunks { table, .. } => {
                self.layout = Layout::Chunks;
                return table.len() * CHUNK_ENTRY;
            }
            Body::Symlink(target) => target.len(),
            Body::Directory => {
                let entries = directory::entries(tree, self.id, self.parent);
                let (mut count, mut last) = (0_u64, 0);
                for block in directory::blocks(&entries) {
                    count += 1;
                    last = directory::used(block);
                }
                self.size = count.saturating_sub(1) * BLOCK_U64 + last as u64;
                last
            }
            _ => return 0,
        };
        if fixed + tail > BLOCK {
            return 0;
        }
        self.layout = Layout::Inline;
        tail
    }
}

/// All inodes below the root, each once, a directory before its children; and for each
/// inode of the tree, where it stands among them.
fn collect(tree: &Tree) -> (Vec<Placed<'_>>, Vec<Option<u32>>) {
    let mut places: Vec<Option<u32>> = vec![None; tree.inode_count()];
    let mut inodes: Vec<Placed<'_>> = Vec::new();
    let mut pending = vec![(tree.root(), tree.root())];
    while let Some((id, parent)) = pending.pop() {
        let Some(place) = places.get_mut(id.index()) else { continue };
        if let Some(known) = place.and_then(|place| inodes.get_mut(place as usize)) {
            known.links += 1;
            continue;
        }
        *place = u32::try_from(inodes.len()).ok();
        let mut placed = Placed::new(id, tree.inode(id), parent);
        placed.links = 1;
        if let Some(children) = tree.children(id) {
            let below = |link: &&super::super::tree::Link| tree.children(link.inode).is_some();
            let directories = children.values().filter(below).count();
            // The inodes of a tree are counted in 32 bits.
            placed.links = u32::try_from(directories).unwrap_or(u32::MAX).saturating_add(2);
            pending.extend(children.values().rev().map(|link| (link.inode, id)));
        }
        inodes.push(placed);
    }
    (inodes, places)
}

/// The chunk size and the table of a file whose holes are worth it; the entries of chunks
/// with data are zero until they are placed.
fn chunks(content: &Content) -> Option<(u32, Vec<u32>)> {
    let data: u64 = content.extents.iter().map(|extent| extent.length).sum();
    if content.size.saturating_sub(data) < WORTHWHILE_HOLES {
        return None;
    }
    let mut bits = MIN_CHUNK_BITS;
    while content.size.div_ceil(1 << bits) > MAX_CHUNKS {
        bits += 1;
    }
    // MAX_CHUNKS bounds the count.
    let count = usize::try_from(content.size.div_ceil(1 << bits)).unwrap_or(0);
    let mut table = vec![NULL_ADDRESS; count];
    for extent in content.extents.iter().filter(|extent| extent.length > 0) {
        let first = usize::try_from(extent.start >> bits).unwrap_or(usize::MAX);
        let last = usize::try_from((extent.end() - 1) >> bits).unwrap_or(usize::MAX);
        if let Some(covered) = table.get_mut(first..last.saturating_add(1)) {
            covered.fill(0);
        }
    }
    Some((bits, table))
}

/// Gives the chunks with data their addresses; returns the blocks that they take.
fn place_chunks(size: u64, bits: u32, table: &mut [u32], start: u64) -> u64 {
    let mut next = start;
    let with_data = table.iter_mut().enumerate().filter(|(_, entry)| **entry != NULL_ADDRESS);
    for (index, entry) in with_data {
        *entry = address(next);
        let rest = size.saturating_sub((index as u64) << bits);
        next = next.saturating_add(rest.min(1 << bits).div_ceil(BLOCK_U64));
    }
    next - start
}

/// A block's number as inodes hold it. Images are bounded far below what it can name.
fn address(block: u64) -> u32 {
    u32::try_from(block).unwrap_or(NULL_ADDRESS)
}
