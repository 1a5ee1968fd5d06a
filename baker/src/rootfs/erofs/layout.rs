//! The layout of an image, before it is written.
//!
//! Orders inodes and assigns addresses to inodes and data.
//!
//! ```text
//! block 0   superblock
//! block 1…  inodes with attributes, short directories, link targets, small files, chunk tables
//! then      directory blocks and other bytes that fit no inode's block, in the order of inodes
//!           zeros up to a multiple of 64 KiB
//! then      the contents of regular files, one region per layer
//! end       zeros up to a multiple of 2 MiB
//! ```
//!
//! Invariants: the layout depends on the tree alone; the root comes first, so that its number fits the
//! superblock; contents of regular files keep the spool's layout, so that a region is the same in every
//! image, and start on block borders, so that a guest can map them without copying. Small files follow
//! their inodes, as a block each would make a large image of many.

use super::super::content::{Content, Spooled};
use super::super::error::Error;
use super::super::spool::REGION_UNIT;
use super::super::tree::{Inode, InodeId, Metadata, Node, Tree};
use super::format::{
    BLOCK, BLOCK_U64, CHUNK_ENTRY, FileType, INODE, Layout, NULL_ADDRESS, SLOT, chunk_format,
    device_number,
};
use super::{directory, xattr};

/// The alignment of a virtio-pmem device's size.
pub(super) const ALIGNMENT: u64 = 2 << 20;
/// The largest image.
const MAX_IMAGE: u64 = 64 << 30;

/// The layout of the image.
#[derive(Debug)]
pub(super) struct ImageLayout<'t> {
    /// The inodes, in the image's order.
    pub(super) inodes: Vec<PlacedInode<'t>>,
    /// For each inode of the tree, its index in `inodes`.
    places: Vec<Option<u32>>,
    /// The end of the inodes.
    pub(super) inodes_end: u64,
    /// The end of the metadata and start of the contents, a multiple of 64 KiB.
    pub(super) metadata_size: u64,
    /// The bytes of the contents of regular files.
    pub(super) contents_size: u64,
    /// The image's size, padding included.
    pub(super) size: u64,
    pub(super) chunked: bool,
}

/// An inode with its address.
#[derive(Debug)]
pub(super) struct PlacedInode<'t> {
    pub(super) id: InodeId,
    pub(super) metadata: &'t Metadata,
    /// The inode's offset in bytes.
    pub(super) position: u64,
    pub(super) links: u32,
    pub(super) attributes: usize,
    pub(super) size: u64,
    pub(super) layout: Layout,
    pub(super) locator: u32,
    /// The parent, for directories.
    pub(super) parent: InodeId,
    pub(super) body: Body<'t>,
}

/// The data of an inode.
#[derive(Debug)]
pub(super) enum Body<'t> {
    Directory,
    File(&'t Spooled),
    SmallFile(&'t [u8]),
    Symlink(&'t [u8]),
    CharDevice,
    BlockDevice,
    Fifo,
}

impl<'t> Body<'t> {
    /// The whole data, if it is in memory.
    pub(super) fn bytes(&self) -> Option<&'t [u8]> {
        match self {
            Self::SmallFile(bytes) | Self::Symlink(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl<'t> ImageLayout<'t> {
    /// Lays out everything reachable from the root, before contents of `contents_size` bytes.
    pub(super) fn new(tree: &'t Tree, contents_size: u64) -> Result<Self, Error> {
        let (inodes, places) = collect(tree);
        let mut plan = Self {
            inodes,
            places,
            inodes_end: 0,
            metadata_size: 0,
            contents_size,
            size: 0,
            chunked: false,
        };
        plan.place_inodes(tree);
        plan.place_blocks();
        plan.place_contents();
        if plan.size > MAX_IMAGE {
            return Err(Error::ImageTooLarge { size: plan.size, limit: MAX_IMAGE });
        }
        Ok(plan)
    }

    /// An inode's number and type, for directory entries.
    pub(super) fn describe(&self, id: InodeId) -> (u64, FileType) {
        let place = self.places.get(id.index()).copied().flatten();
        // Every inode in a directory was collected.
        let placed = place.and_then(|place| self.inodes.get(place as usize));
        placed.map_or((0, FileType::Regular), |placed| (placed.number(), placed.file_type()))
    }

    fn place_inodes(&mut self, tree: &Tree) {
        let mut position = BLOCK_U64;
        for placed in &mut self.inodes {
            let fixed = INODE + placed.attributes;
            let inline = placed.choose_layout(tree, fixed);
            let left = BLOCK_U64 - position % BLOCK_U64;
            // What fits one block must not cross a block border.
            if (fixed + inline) as u64 > left {
                position = position.next_multiple_of(BLOCK_U64);
            }
            placed.position = position;
            position = (position + (fixed + inline) as u64).next_multiple_of(SLOT);
            self.chunked |= placed.layout == Layout::Chunks;
        }
        self.inodes_end = position.next_multiple_of(BLOCK_U64);
    }

    /// Assigns addresses to directory blocks and to bytes that do not fit behind their inode.
    fn place_blocks(&mut self) {
        let mut next = self.inodes_end;
        for placed in &mut self.inodes {
            let is_metadata =
                matches!(placed.body, Body::Directory) || placed.body.bytes().is_some();
            let size = match placed.layout {
                _ if !is_metadata => 0,
                Layout::Plain => placed.size,
                _ => placed.size / BLOCK_U64 * BLOCK_U64,
            };
            if size > 0 {
                placed.locator = address(next);
            }
            next = next.saturating_add(size.next_multiple_of(BLOCK_U64));
        }
        self.metadata_size = next.next_multiple_of(REGION_UNIT);
        let end = self.metadata_size.saturating_add(self.contents_size);
        self.size = end.next_multiple_of(ALIGNMENT);
    }

    fn place_contents(&mut self) {
        for placed in &mut self.inodes {
            if let (Body::File(content), Layout::Plain) = (&placed.body, placed.layout)
                && let Some(extent) = content.extents.first()
            {
                placed.locator = address(self.metadata_size.saturating_add(extent.spooled));
            }
        }
    }
}

impl<'t> PlacedInode<'t> {
    fn new(id: InodeId, inode: &'t Inode, parent: InodeId) -> Self {
        let (body, size, locator) = match &inode.node {
            Node::Directory(_) => (Body::Directory, 0, 0),
            Node::File(Content::Small(bytes)) => (Body::SmallFile(bytes), bytes.len() as u64, 0),
            Node::File(Content::Spooled(content)) => {
                let bits = content.has_holes().then(|| content.chunk_bits());
                (Body::File(content), content.size, bits.map_or(0, chunk_format))
            }
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

    /// The inode's number.
    pub(super) fn number(&self) -> u64 {
        self.position / SLOT
    }

    pub(super) fn file_type(&self) -> FileType {
        match self.body {
            Body::Directory => FileType::Directory,
            Body::File(_) | Body::SmallFile(_) => FileType::Regular,
            Body::Symlink(_) => FileType::Symlink,
            Body::CharDevice => FileType::CharDevice,
            Body::BlockDevice => FileType::BlockDevice,
            Body::Fifo => FileType::Fifo,
        }
    }

    /// Chooses the data layout. Returns the number of bytes after the inode's `fixed` ones.
    fn choose_layout(&mut self, tree: &Tree, fixed: usize) -> usize {
        let tail = match &self.body {
            Body::File(content) if content.has_holes() => {
                self.layout = Layout::Chunks;
                return content.chunk_count() * CHUNK_ENTRY;
            }
            Body::SmallFile(bytes) | Body::Symlink(bytes) => bytes.len(),
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
        if tail == 0 || fixed + tail > BLOCK {
            return 0;
        }
        self.layout = Layout::Inline;
        tail
    }
}

/// Collects all inodes below the root once, directories before their children, and maps each inode of
/// the tree to its index among them.
fn collect(tree: &Tree) -> (Vec<PlacedInode<'_>>, Vec<Option<u32>>) {
    let mut places: Vec<Option<u32>> = vec![None; tree.inode_count()];
    let mut inodes: Vec<PlacedInode<'_>> = Vec::new();
    let mut pending = vec![(tree.root(), tree.root())];
    while let Some((id, parent)) = pending.pop() {
        let Some(place) = places.get_mut(id.index()) else { continue };
        if let Some(known) = place.and_then(|place| inodes.get_mut(place as usize)) {
            known.links += 1;
            continue;
        }
        *place = u32::try_from(inodes.len()).ok();
        let mut placed = PlacedInode::new(id, tree.inode(id), parent);
        placed.links = 1;
        if let Some(children) = tree.children(id) {
            let below = |link: &&super::super::tree::Link| tree.children(link.inode).is_some();
            let directories = children.values().filter(below).count();
            // A tree has fewer than 2^32 inodes.
            placed.links = u32::try_from(directories).unwrap_or(u32::MAX).saturating_add(2);
            pending.extend(children.values().rev().map(|link| (link.inode, id)));
        }
        inodes.push(placed);
    }
    (inodes, places)
}

/// The addresses of the chunks of a file with holes, in an image whose contents start at
/// `contents_start`.
#[expect(clippy::expect_used, reason = "an extent is within its content")]
pub(super) fn chunk_table(content: &Spooled, contents_start: u64) -> Vec<u32> {
    let bits = content.chunk_bits();
    let mut table = vec![NULL_ADDRESS; content.chunk_count()];
    for extent in &content.extents {
        let below = "a place in the table";
        let first = usize::try_from(extent.start >> bits).expect(below);
        let count = usize::try_from(extent.length.div_ceil(1 << bits)).expect(below);
        let start = contents_start.saturating_add(extent.spooled);
        for (index, entry) in (0_u64..).zip(table.iter_mut().skip(first).take(count)) {
            *entry = address(start.saturating_add(index << bits));
        }
    }
    table
}

/// The number of the block at `position`. Images are far smaller than 2^32 blocks.
#[expect(clippy::expect_used, reason = "the size of an image is checked before")]
fn address(position: u64) -> u32 {
    u32::try_from(position / BLOCK_U64).expect("a block's number has 32 bits")
}
