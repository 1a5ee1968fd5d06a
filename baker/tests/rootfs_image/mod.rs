//! A second, independent reader of EROFS images for the tests.
//!
//! `fsck.erofs` checks and extracts images but loses attributes, hard links and fractions of seconds;
//! this reader returns them. It follows the on-disk format, shares no code with the writer, and panics
//! on anything unexpected.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK: u64 = 4096;
pub(crate) const PLAIN: u16 = 0;
pub(crate) const CHUNKS: u16 = 4;

pub(crate) struct Image {
    file: File,
    pub(crate) root: u64,
    pub(crate) inodes: u64,
    pub(crate) blocks: u32,
    pub(crate) incompatible: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Inode {
    position: u64,
    attributes_size: u64,
    pub(crate) number: u64,
    pub(crate) layout: u16,
    pub(crate) mode: u16,
    pub(crate) size: u64,
    pub(crate) locator: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
}

impl Image {
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let mut image = Self { file, root: 0, inodes: 0, blocks: 0, incompatible: 0 };
        assert_eq!(image.u32(1024), 0xE0F5_E1E2, "magic");
        assert_eq!(image.bytes(1036, 1), [12], "block size");
        image.root = u64::from(image.u16(1038));
        image.inodes = image.u64(1040);
        image.blocks = image.u32(1060);
        image.incompatible = image.u32(1104);
        image
    }

    pub(crate) fn find(&self, path: &str) -> Inode {
        path.split('/').filter(|name| !name.is_empty()).fold(self.inode(self.root), |at, name| {
            let entries = self.entries(&at);
            self.inode(entries.get(name.as_bytes()).unwrap_or_else(|| panic!("no {path}")).0)
        })
    }

    pub(crate) fn inode(&self, number: u64) -> Inode {
        let at = number * 32;
        let (format, count) = (self.u16(at), self.u16(at + 2));
        assert_eq!(format & 1, 1, "extended inode");
        Inode {
            position: at,
            attributes_size: if count == 0 { 0 } else { 12 + 4 * (u64::from(count) - 1) },
            number,
            layout: format >> 1,
            mode: self.u16(at + 4),
            size: self.u64(at + 8),
            locator: self.u32(at + 16),
            uid: self.u32(at + 24),
            gid: self.u32(at + 28),
            mtime: (self.u64(at + 32).cast_signed(), self.u32(at + 40)),
            links: self.u32(at + 44),
        }
    }

    /// Names with inode number and type. Asserts that they ascend, as the kernel requires.
    pub(crate) fn entries(&self, directory: &Inode) -> BTreeMap<Vec<u8>, (u64, u8)> {
        assert_eq!(directory.mode & 0o170_000, 0o040_000, "a directory");
        let (mut found, mut last) = (BTreeMap::new(), Vec::new());
        let content = self.read(directory, 0, directory.size);
        for block in content.chunks(BLOCK as usize) {
            let name_at = |index: usize| usize::from(le16(&block[index * 12 + 8..]));
            let count = name_at(0) / 12;
            for index in 0..count {
                let end = if index + 1 < count { name_at(index + 1) } else { block.len() };
                let name = &block[name_at(index)..end];
                let name = name.split(|byte| *byte == 0).next().unwrap().to_vec();
                assert!(name > last, "{name:?} after {last:?}");
                let number = u64::from_le_bytes(block[index * 12..][..8].try_into().unwrap());
                last.clone_from(&name);
                found.insert(name, (number, block[index * 12 + 10]));
            }
        }
        found
    }

    pub(crate) fn read(&self, inode: &Inode, start: u64, length: u64) -> Vec<u8> {
        let length = length.min(inode.size.saturating_sub(start));
        let mut out = Vec::new();
        let after = inode.position + 64 + inode.attributes_size;
        let mut at = start;
        while at < start + length {
            let count = (BLOCK - at % BLOCK).min(start + length - at);
            let plain = u64::from(inode.locator) * BLOCK + at;
            let position = match inode.layout {
                PLAIN => Some(plain),
                2 if at / BLOCK < inode.size / BLOCK => Some(plain),
                2 => {
                    let tail = inode.size % BLOCK;
                    assert!(after % BLOCK + tail <= BLOCK, "an inline tail crosses a block");
                    Some(after + at % BLOCK)
                }
                CHUNKS => {
                    let bits = 12 + (inode.locator & 31);
                    let address = self.u32(after.next_multiple_of(4) + 4 * (at >> bits));
                    let inside = at & ((1 << bits) - 1);
                    (address != u32::MAX).then(|| u64::from(address) * BLOCK + inside)
                }
                other => panic!("layout {other}"),
            };
            let bytes = position.map_or(vec![0; count as usize], |at| self.bytes(at, count));
            out.extend(bytes);
            at += count;
        }
        out
    }

    pub(crate) fn attributes(&self, inode: &Inode) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let end = inode.position + 64 + inode.attributes_size;
        let mut at = inode.position + 64 + 12;
        while at < end {
            let head = self.bytes(at, 4);
            let (name, value) = (u64::from(head[0]), u64::from(le16(&head[2..])));
            let prefix = match head[1] {
                1 => "user.",
                2 => "system.posix_acl_access",
                3 => "system.posix_acl_default",
                4 => "trusted.",
                6 => "security.",
                other => panic!("name space {other}"),
            };
            let suffix = String::from_utf8(self.bytes(at + 4, name)).unwrap();
            found.insert(format!("{prefix}{suffix}"), self.bytes(at + 4 + name, value));
            at = (at + 4 + name + value).next_multiple_of(4);
        }
        found
    }

    fn bytes(&self, at: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn u16(&self, at: u64) -> u16 {
        le16(&self.bytes(at, 2))
    }

    fn u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.bytes(at, 4).try_into().unwrap())
    }

    fn u64(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.bytes(at, 8).try_into().unwrap())
    }
}

fn le16(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}
