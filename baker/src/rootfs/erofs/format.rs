//! The on-disk structures of EROFS, as far as uncompressed images need them.
//!
//! Owns sizes, offsets and encodings; all are little-endian. Invariant: each encoder appends exactly as
//! many bytes as its constant says.

use super::super::tree::Metadata;

/// The unit of blocks and addresses, and the page size of every guest.
pub(super) const BLOCK: usize = 4096;
/// [`BLOCK`] for file sizes.
pub(super) const BLOCK_U64: u64 = 4096;
const BLOCK_BITS: u8 = 12;
/// The unit in which inodes are numbered.
pub(super) const SLOT: u64 = 32;
/// An inode with full-width owner, size and times. The short form has no times.
pub(super) const INODE: usize = 64;
/// One entry of a directory, without its name.
pub(super) const DIRENT: usize = 12;
/// One entry of a chunk table.
pub(super) const CHUNK_ENTRY: usize = 4;
/// The address of a chunk that is a hole.
pub(super) const NULL_ADDRESS: u32 = u32::MAX;

const SUPERBLOCK_OFFSET: usize = 1024;
const MAGIC: u32 = 0xE0F5_E1E2;
const COMPAT_CHECKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_CHUNKED: u32 = 4;
const CHECKSUM_FIELD: std::ops::Range<usize> = SUPERBLOCK_OFFSET + 4..SUPERBLOCK_OFFSET + 8;

const FORMAT_EXTENDED: u16 = 1;
const LAYOUT_SHIFT: u32 = 1;

/// The layout of an inode's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Layout {
    /// Contiguous whole blocks.
    Plain = 0,
    /// Contiguous whole blocks, and the rest right after the inode.
    Inline = 2,
    /// A table of chunks after the inode.
    Chunks = 4,
}

/// The content of the superblock.
#[derive(Debug)]
pub(super) struct Superblock {
    pub(super) root: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    pub(super) chunked: bool,
}

impl Superblock {
    /// Encodes the first block. Build time and UUID are zero, so that equal trees produce equal bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; SUPERBLOCK_OFFSET];
        put32(&mut block, MAGIC);
        put32(&mut block, 0);
        put32(&mut block, COMPAT_CHECKSUM | COMPAT_MTIME);
        block.extend([BLOCK_BITS, 0]);
        put16(&mut block, self.root);
        put64(&mut block, self.inodes);
        block.extend([0; 8 + 4]);
        put32(&mut block, self.blocks);
        // Inodes are numbered from the image's start; no attributes are shared.
        put32(&mut block, 0);
        put32(&mut block, 0);
        block.extend([0; 16 + 16]);
        put32(&mut block, if self.chunked { INCOMPAT_CHUNKED } else { 0 });
        block.resize(BLOCK, 0);
        let checksum = crc32c(&block[SUPERBLOCK_OFFSET..]);
        block[CHECKSUM_FIELD].copy_from_slice(&checksum.to_le_bytes());
        block
    }
}

/// The fields of an inode besides its metadata.
#[derive(Debug, Clone, Copy)]
pub(super) struct InodeHead {
    pub(super) file_type: FileType,
    pub(super) layout: Layout,
    pub(super) size: u64,
    /// The first block, the device number or the chunk format.
    pub(super) locator: u32,
    pub(super) number: u32,
    pub(super) links: u32,
    /// The bytes of attributes after the inode.
    pub(super) attributes: usize,
}

impl InodeHead {
    /// Appends [`INODE`] bytes.
    pub(super) fn encode(&self, metadata: &Metadata, out: &mut Vec<u8>) {
        put16(out, FORMAT_EXTENDED | (self.layout as u16) << LAYOUT_SHIFT);
        put16(out, attribute_count(self.attributes));
        put16(out, self.file_type.mode() | metadata.mode);
        put16(out, 0);
        put64(out, self.size);
        put32(out, self.locator);
        put32(out, self.number);
        put32(out, metadata.uid);
        put32(out, metadata.gid);
        put64(out, metadata.mtime.seconds.cast_unsigned());
        put32(out, metadata.mtime.nanoseconds);
        put32(out, self.links);
        out.extend([0; 16]);
    }
}

/// File types, numbered as in directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum FileType {
    Regular = 1,
    Directory = 2,
    CharDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Symlink = 7,
}

impl FileType {
    fn mode(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Symlink => 0o120_000,
        }
    }
}

/// Appends one directory entry, [`DIRENT`] bytes.
pub(super) fn put_dirent(out: &mut Vec<u8>, inode: u64, name: u16, file_type: FileType) {
    put64(out, inode);
    put16(out, name);
    out.extend([file_type as u8, 0]);
}

/// A device number as Linux encodes it in 32 bits.
pub(super) fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

/// The locator of a file in chunks of `1 << bits` bytes.
pub(super) fn chunk_format(bits: u32) -> u32 {
    bits.saturating_sub(u32::from(BLOCK_BITS))
}

pub(super) fn put16(out: &mut Vec<u8>, value: u16) {
    out.extend(value.to_le_bytes());
}

pub(super) fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend(value.to_le_bytes());
}

fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend(value.to_le_bytes());
}

/// The attributes' size in words, their header being three words and counted as one.
fn attribute_count(bytes: usize) -> u16 {
    match bytes {
        0 => 0,
        // Attributes of one inode are bounded well below 65,535 words when a layer is read.
        _ => u16::try_from(bytes.saturating_sub(8) / 4).unwrap_or(u16::MAX),
    }
}

/// CRC-32C as Linux stores it: starts with ones, not inverted.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_check_text_is_the_known_value() {
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn superblock_has_its_fields_in_place() {
        let superblock = Superblock { root: 128, inodes: 7, blocks: 512, chunked: true };
        let block = superblock.encode();
        assert_eq!(block.len(), BLOCK);
        assert_eq!(block[1024..1028], MAGIC.to_le_bytes());
        assert_eq!(block[1036], 12);
        assert_eq!(block[1038..1040], 128_u16.to_le_bytes());
        assert_eq!(block[1040..1048], 7_u64.to_le_bytes());
        assert_eq!(block[1060..1064], 512_u32.to_le_bytes());
        assert_eq!(block[1104..1108], 4_u32.to_le_bytes());
    }

    #[test]
    fn device_number_of_wide_numbers_is_split_as_linux_does() {
        assert_eq!(device_number(5, 1), 0x501);
        assert_eq!(device_number(0xfff, 0xf_ffff), 0xffff_ffff);
        assert_eq!(device_number(259, 0x1_2345), 0x1230_0000 | 259 << 8 | 0x45);
    }
}
