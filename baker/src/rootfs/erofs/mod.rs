//! Uncompressed EROFS images.
//!
//! Owns how a tree becomes an image that Linux mounts, with direct access where the device
//! allows it. Does not know layers. `layout` places everything, then this module writes the
//! image front to back in one pass, hashing as it goes. Invariant: equal trees give equal
//! bytes.

mod directory;
mod format;
mod layout;
mod output;
mod xattr;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use supermachine_formats::Digest;

use self::format::{BLOCK, BLOCK_U64, InodeHead, Superblock, put32};
use self::layout::{Body, Placed, Plan};
use self::output::Output;
use super::error::Error;
use super::spool::Content;
use super::tree::Tree;

pub(super) use self::xattr::holds_attribute;

/// Pieces in which file contents are copied.
const COPY_BUFFER: usize = 1 << 20;

/// What was written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) inodes: u64,
}

/// Why an image could not be written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// The layers do not fit an image.
    Plan(Error),
    /// The scratch file could not be read.
    Spool(io::Error),
    /// The image could not be written.
    Output(io::Error),
}

/// Writes the image of `tree` to `out`, which is empty. Contents come from `spool`.
pub(super) fn write<S: Read + Seek>(
    tree: &Tree,
    spool: S,
    out: File,
) -> Result<Written, WriteError> {
    let plan = Plan::new(tree).map_err(WriteError::Plan)?;
    let mut writer = Writer { tree, plan: &plan, spool, out: Output::new(out), buffer: Vec::new() };
    writer.superblock().map_err(WriteError::Output)?;
    writer.inodes().map_err(WriteError::Output)?;
    writer.data()?;
    let inodes = plan.inodes.len() as u64;
    let digest = writer.out.finish(plan.size).map_err(WriteError::Output)?;
    Ok(Written { digest, size: plan.size, inodes })
}

struct Writer<'a, 't, S> {
    tree: &'t Tree,
    plan: &'a Plan<'t>,
    spool: S,
    out: Output,
    buffer: Vec<u8>,
}

impl<S: Read + Seek> Writer<'_, '_, S> {
    fn superblock(&mut self) -> io::Result<()> {
        let root = self.plan.describe(self.tree.root()).0;
        let superblock = Superblock {
            // The root is the first inode, in the image's second block.
            root: u16::try_from(root).unwrap_or(0),
            inodes: self.plan.inodes.len() as u64,
            blocks: u32::try_from(self.plan.size / BLOCK_U64).unwrap_or(u32::MAX),
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
        self.out.zeros_until(self.plan.data_start * BLOCK_U64)
    }

    fn append_inline(&mut self, placed: &Placed<'_>) {
        match &placed.body {
            Body::Chunks { table, .. } => {
                for address in table {
                    put32(&mut self.buffer, *address);
                }
            }
            Body::Symlink(target) if placed.layout == format::Layout::Inline => {
                self.buffer.extend(*target);
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

    fn data(&mut self) -> Result<(), WriteError> {
        for placed in &self.plan.inodes {
            match &placed.body {
                Body::Directory => self.directory_blocks(placed).map_err(WriteError::Output)?,
                Body::Symlink(target) if placed.layout == format::Layout::Plain => {
                    self.out.write_all(target).map_err(WriteError::Output)?;
                    self.out.fill_block().map_err(WriteError::Output)?;
                }
                Body::File(content) => {
                    let start = u64::from(placed.locator) * BLOCK_U64;
                    self.contents(content, 0..content.size, start)?;
                }
                Body::Chunks { content, bits, table } => {
                    for (index, address) in (0_u64..).zip(table) {
                        if *address != format::NULL_ADDRESS {
                            let from = index << bits;
                            let to = content.size.min((index + 1) << bits);
                            let start = u64::from(*address) * BLOCK_U64;
                            self.contents(content, from..to, start)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn directory_blocks(&mut self, placed: &Placed<'_>) -> io::Result<()> {
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

    /// Writes the bytes `range` of a file, holes as zeros, at `start` in the image.
    fn contents(
        &mut self,
        content: &Content,
        range: std::ops::Range<u64>,
        start: u64,
    ) -> Result<(), WriteError> {
        let first = content.extents.partition_point(|extent| extent.end() <= range.start);
        for extent in content.extents.iter().skip(first) {
            let (from, to) = (extent.start.max(range.start), extent.end().min(range.end));
            if from >= to {
                break;
            }
            self.out.zeros_until(start + (from - range.start)).map_err(WriteError::Output)?;
            self.copy(extent.spooled + (from - extent.start), to - from)?;
        }
        if range.is_empty() {
            return Ok(());
        }
        self.out.zeros_until(start + (range.end - range.start)).map_err(WriteError::Output)?;
        self.out.fill_block().map_err(WriteError::Output)
    }

    fn copy(&mut self, spooled: u64, length: u64) -> Result<(), WriteError> {
        self.spool.seek(SeekFrom::Start(spooled)).map_err(WriteError::Spool)?;
        let mut left = length;
        while left > 0 {
            let count = usize::try_from(left).map_or(COPY_BUFFER, |left| left.min(COPY_BUFFER));
            self.buffer.resize(count, 0);
            self.spool.read_exact(&mut self.buffer).map_err(WriteError::Spool)?;
            self.out.write_all(&self.buffer).map_err(WriteError::Output)?;
            left -= count as u64;
        }
        Ok(())
    }
}
