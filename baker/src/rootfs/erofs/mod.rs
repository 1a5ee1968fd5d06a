//! Uncompressed EROFS images.
//!
//! Encodes a tree as an image that Linux mounts, with DAX where the device supports it. Does not know
//! layers: the spool has the contents of all files. `layout` assigns addresses, then this module writes
//! and hashes the image front to back in one pass. Invariant: equal trees and contents produce equal
//! bytes.

mod directory;
mod format;
mod layout;
mod output;
mod xattr;

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use supermachine_formats::Digest;

use self::format::{BLOCK, BLOCK_U64, InodeHead, Superblock, put32};
use self::layout::{Body, ImageLayout, PlacedInode, chunk_table};
use self::output::Output;
use super::error::Error;
use super::spool::{REGION_UNIT, is_zero};
use super::tree::Tree;

pub(super) use self::xattr::holds_attribute;

/// How many bytes of contents are copied at a time: whole units.
const COPY_BUFFER: usize = 1 << 20;
/// The unit of the search for zeros.
const UNIT: usize = REGION_UNIT as usize;

/// The written image.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) metadata_size: u64,
    pub(super) inodes: u64,
}

/// Why an image could not be written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// The layers do not fit into an image.
    Layout(Error),
    /// The scratch file could not be read.
    Spool(io::Error),
    /// The image could not be written.
    Output(io::Error),
}

/// Writes the image of `tree` to `out`, which is empty. Its files' contents are the first
/// `contents_size` bytes of `spool`.
pub(super) fn write<S: Read + Seek>(
    tree: &Tree,
    spool: S,
    contents_size: u64,
    out: File,
) -> Result<Written, WriteError> {
    let plan = ImageLayout::new(tree, contents_size).map_err(WriteError::Layout)?;
    let mut writer = Writer { tree, plan: &plan, out: Output::new(out), buffer: Vec::new() };
    writer.metadata().map_err(WriteError::Output)?;
    writer.contents(spool)?;
    let digest = writer.out.finish(plan.size).map_err(WriteError::Output)?;
    let (size, metadata_size) = (plan.size, plan.metadata_size);
    Ok(Written { digest, size, metadata_size, inodes: plan.inodes.len() as u64 })
}

struct Writer<'a, 't> {
    tree: &'t Tree,
    plan: &'a ImageLayout<'t>,
    out: Output,
    buffer: Vec<u8>,
}

impl Writer<'_, '_> {
    fn metadata(&mut self) -> io::Result<()> {
        self.superblock()?;
        self.inodes()?;
        self.blocks()?;
        self.out.zeros_until(self.plan.metadata_size)
    }

    #[expect(clippy::expect_used, reason = "the plan is bounded by the largest image")]
    fn superblock(&mut self) -> io::Result<()> {
        let root = self.plan.describe(self.tree.root()).0;
        let superblock = Superblock {
            // The root is the first inode, in the image's second block.
            root: u16::try_from(root).expect("the first inode has a small number"),
            inodes: self.plan.inodes.len() as u64,
            blocks: u32::try_from(self.plan.size / BLOCK_U64).expect("blocks count in 32 bits"),
            chunked: self.plan.chunked,
        };
        self.out.write_all(&superblock.encode())
    }

    fn inodes(&mut self) -> io::Result<()> {
        for (number, placed) in (1..).zip(&self.plan.inodes) {
            self.out.zeros_until(placed.position)?;
            self.buffer.clear();
            let head = InodeHead {
                file_type: placed.file_type(),
                layout: placed.layout,
                size: placed.size,
                locator: placed.locator,
                number,
                links: placed.links,
                attributes: placed.attributes,
            };
            head.encode(placed.metadata, &mut self.buffer);
            xattr::encode(&placed.metadata.attributes, &mut self.buffer);
            self.append_inline(placed);
            self.out.write_all(&self.buffer)?;
        }
        self.out.zeros_until(self.plan.inodes_end)
    }

    fn append_inline(&mut self, placed: &PlacedInode<'_>) {
        match &placed.body {
            Body::SmallFile(bytes) | Body::Symlink(bytes)
                if placed.layout == format::Layout::Inline =>
            {
                self.buffer.extend(*bytes);
            }
            Body::File(content) if placed.layout == format::Layout::Chunks => {
                for address in chunk_table(content, self.plan.metadata_size) {
                    put32(&mut self.buffer, address);
                }
            }
            Body::Directory if placed.layout == format::Layout::Inline => {
                let entries = directory::entries(self.tree, placed.id, placed.parent);
                if let Some(block) = directory::blocks(&entries).last() {
                    directory::encode(block, |id| self.plan.describe(id), &mut self.buffer);
                }
            }
            _ => {}
        }
    }

    fn blocks(&mut self) -> io::Result<()> {
        for placed in &self.plan.inodes {
            match &placed.body {
                Body::Directory => self.directory_blocks(placed)?,
                Body::SmallFile(bytes) | Body::Symlink(bytes)
                    if placed.layout == format::Layout::Plain =>
                {
                    self.out.write_all(bytes)?;
                    self.out.fill_block()?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn directory_blocks(&mut self, placed: &PlacedInode<'_>) -> io::Result<()> {
        let whole = match placed.layout {
            format::Layout::Inline => placed.size / BLOCK_U64,
            _ => placed.size.div_ceil(BLOCK_U64),
        };
        if whole == 0 {
            return Ok(());
        }
        let entries = directory::entries(self.tree, placed.id, placed.parent);
        for (_, block) in (0..whole).zip(directory::blocks(&entries)) {
            self.buffer.clear();
            directory::encode(block, |id| self.plan.describe(id), &mut self.buffer);
            self.buffer.resize(BLOCK, 0);
            self.out.write_all(&self.buffer)?;
        }
        Ok(())
    }

    /// Copies the contents of all files. A unit of zeros becomes a hole of the image file.
    fn contents<S: Read + Seek>(&mut self, mut spool: S) -> Result<(), WriteError> {
        spool.rewind().map_err(WriteError::Spool)?;
        let (mut position, mut left) = (self.plan.metadata_size, self.plan.contents_size);
        while left > 0 {
            let count = usize::try_from(left).map_or(COPY_BUFFER, |left| left.min(COPY_BUFFER));
            self.buffer.resize(count, 0);
            spool.read_exact(&mut self.buffer).map_err(WriteError::Spool)?;
            for unit in self.buffer.chunks(UNIT) {
                if !is_zero(unit) {
                    let written = self.out.zeros_until(position);
                    written.and_then(|()| self.out.write_all(unit)).map_err(WriteError::Output)?;
                }
                position += unit.len() as u64;
            }
            left -= count as u64;
        }
        Ok(())
    }
}
