//! Tar archives as a stream of entries.
//!
//! Owns the archive's structure: headers, extensions of the next entry, and each entry's data. Field
//! layouts come from the `tar` crate. Its iterator is not used: it splits pax records at newlines,
//! which loses binary attributes such as file capabilities, and reads long names without a bound.
//! Invariants: every read is bounded; an archive truncated within an entry is an error.

use std::io::{ErrorKind, Read};

use tar::{EntryType, GnuExtSparseHeader, Header};

use super::super::error::{HeaderProblem, LayerError};
use super::super::spool::Segment;
use super::super::tree::{Metadata, Timestamp};
use super::block::{BLOCK, BLOCK_U64};
use super::number::{self, field, signed_field};
use super::pax::Records;
use super::sparse;

/// The most bytes of a long name or a set of pax records, as in Go's reader.
const MAX_EXTENSION: u64 = 1 << 20;
/// The most bytes of an uncompressed layer.
pub(super) const MAX_ARCHIVE: u64 = 64 << 30;

/// An entry of an archive. Its data, if any, can be read next.
#[derive(Debug)]
pub(in crate::rootfs) struct Entry {
    pub(in crate::rootfs) path: Vec<u8>,
    pub(in crate::rootfs) kind: EntryKind,
    pub(in crate::rootfs) metadata: Metadata,
}

/// The kind of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::rootfs) enum EntryKind {
    Directory,
    File { size: u64, segments: Vec<Segment> },
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// Reads an archive once, front to back.
pub(in crate::rootfs) struct Archive<R> {
    reader: R,
    offset: u64,
    /// Unread data of the current entry.
    data: u64,
    /// Zeros between that data and the next header.
    padding: u64,
}

/// Extensions of the next entry.
#[derive(Default)]
struct Extensions {
    records: Records,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    any: bool,
}

impl<R: Read> Archive<R> {
    pub(in crate::rootfs) fn new(reader: R) -> Self {
        Self { reader, offset: 0, data: 0, padding: 0 }
    }

    /// Reads the next entry; `None` at the end of the archive. Skips unread data.
    pub(in crate::rootfs) fn next(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_data()?;
            let start = self.offset;
            let at = |problem| LayerError::Header { offset: start, problem };
            let Some(header) = self.header()? else {
                let orphaned = extensions.any.then(|| at(HeaderProblem::Orphan));
                return orphaned.map_or(Ok(None), Err);
            };
            let size = field(&header.as_old().size, "size").map_err(at)?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let bytes = self.extension(start, size)?;
                    extensions.records = Records::parse(&bytes).map_err(at)?;
                    extensions.any = true;
                }
                // Global records are comments of the archiver; container tools ignore them.
                EntryType::XGlobalHeader => self.begin_data(size)?,
                EntryType::GNULongName => {
                    extensions.long_name = Some(text(self.extension(start, size)?));
                    extensions.any = true;
                }
                EntryType::GNULongLink => {
                    extensions.long_link = Some(text(self.extension(start, size)?));
                    extensions.any = true;
                }
                _ => return self.entry(start, &header, extensions).map(Some),
            }
        }
    }

    /// Fills `buffer` with data of the current entry.
    pub(in crate::rootfs) fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), LayerError> {
        self.data = self
            .data
            .checked_sub(buffer.len() as u64)
            .ok_or(LayerError::Truncated { offset: self.offset })?;
        self.fill(buffer)
    }

    /// Reads the rest of the input after the archive.
    pub(in crate::rootfs) fn drain(&mut self) -> Result<(), LayerError> {
        let mut block = [0; 8 * BLOCK];
        while self.read_some(&mut block)? > 0 {}
        Ok(())
    }

    fn entry(
        &mut self,
        start: u64,
        header: &Header,
        extensions: Extensions,
    ) -> Result<Entry, LayerError> {
        let at = |problem| LayerError::Header { offset: start, problem };
        let Extensions { mut records, long_name, long_link, .. } = extensions;
        let path = long_name
            .or_else(|| records.path.take())
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = long_link
            .or_else(|| records.link.take())
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()))
            .unwrap_or_default();
        let metadata = metadata(header, &mut records).map_err(at)?;
        let stored = match records.size {
            Some(size) => size,
            None => field(&header.as_old().size, "size").map_err(at)?,
        };
        let kind = match header.entry_type() {
            // In old archives a trailing slash marks a directory.
            EntryType::Regular if path.ends_with(b"/") && header.as_ustar().is_none() => {
                self.begin_data(stored)?;
                EntryKind::Directory
            }
            EntryType::Regular | EntryType::Continuous => {
                self.begin_data(stored)?;
                self.regular_file(start, stored, &records)?
            }
            EntryType::GNUSparse => self.old_sparse_file(start, stored, header)?,
            // The kinds below have no data, regardless of the size field.
            EntryType::Directory => EntryKind::Directory,
            EntryType::Link => EntryKind::HardLink(link),
            EntryType::Symlink => EntryKind::Symlink(link),
            EntryType::Fifo => EntryKind::Fifo,
            EntryType::Char => {
                let (major, minor) = device(header).map_err(at)?;
                EntryKind::CharDevice { major, minor }
            }
            EntryType::Block => {
                let (major, minor) = device(header).map_err(at)?;
                EntryKind::BlockDevice { major, minor }
            }
            other => return Err(at(HeaderProblem::Type(other.as_byte()))),
        };
        let path = records.sparse.name.take().unwrap_or(path);
        Ok(Entry { path, kind, metadata })
    }

    /// Reads a regular file, which may have holes according to its pax records. Its data has begun.
    fn regular_file(
        &mut self,
        start: u64,
        stored: u64,
        records: &Records,
    ) -> Result<EntryKind, LayerError> {
        let sparse = &records.sparse;
        let at = |problem| LayerError::Header { offset: start, problem };
        let segments = match (sparse.major, sparse.minor, &sparse.map) {
            (Some(1), Some(0), _) => self.map_before_data(start)?,
            (None, _, None) => {
                let segments = vec![Segment { start: 0, length: stored }];
                return Ok(EntryKind::File { size: stored, segments });
            }
            (None | Some(0), _, Some(map)) => map.clone(),
            _ => return Err(at(HeaderProblem::SparseMap)),
        };
        let size = sparse.size.ok_or(at(HeaderProblem::SparseMap))?;
        sparse::check(&segments, size, self.data).map_err(at)?;
        Ok(EntryKind::File { size, segments })
    }

    /// Reads a file of the old GNU type `S`, whose map is in its header and the blocks after it.
    fn old_sparse_file(
        &mut self,
        start: u64,
        stored: u64,
        header: &Header,
    ) -> Result<EntryKind, LayerError> {
        let at = |problem| LayerError::Header { offset: start, problem };
        let gnu = header.as_gnu().ok_or(at(HeaderProblem::SparseMap))?;
        let size = field(&gnu.realsize, "realsize").map_err(at)?;
        let mut segments = Vec::new();
        sparse::collect(&gnu.sparse, &mut segments).map_err(at)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.fill(block.as_mut_bytes())?;
            sparse::collect(block.sparse(), &mut segments).map_err(at)?;
            more = block.is_extended();
        }
        sparse::check(&segments, size, stored).map_err(at)?;
        self.begin_data(stored)?;
        Ok(EntryKind::File { size, segments })
    }

    /// Reads the map of format 1.0: decimal lines, padded to a whole block.
    fn map_before_data(&mut self, start: u64) -> Result<Vec<Segment>, LayerError> {
        let at = |problem| LayerError::Header { offset: start, problem };
        let mut lines = sparse::Lines::new(|block: &mut [u8; BLOCK]| self.read_exact(block));
        let count = lines.number()?.map_err(at)?;
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= sparse::MAX_SEGMENTS)
            .ok_or(at(HeaderProblem::SparseMap))?;
        let mut segments = Vec::new();
        for _ in 0..count {
            let start = lines.number()?.map_err(at)?;
            segments.push(Segment { start, length: lines.number()?.map_err(at)? });
        }
        Ok(segments)
    }

    /// Reads one header; `None` at the end of the archive or of the input.
    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        let start = self.offset;
        let at = |problem| LayerError::Header { offset: start, problem };
        let mut block = [0; BLOCK];
        if !self.fill_or_end(&mut block)? {
            return Ok(None);
        }
        if block == [0; BLOCK] {
            let second = self.fill_or_end(&mut block)?;
            if second && block != [0; BLOCK] {
                return Err(at(HeaderProblem::LoneZeroBlock));
            }
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let stated = field(&header.as_old().cksum, "checksum").map_err(at)?;
        if number::checksums(&block).contains(&stated) {
            Ok(Some(header))
        } else {
            Err(at(HeaderProblem::Checksum))
        }
    }

    fn extension(&mut self, start: u64, size: u64) -> Result<Vec<u8>, LayerError> {
        let too_large = HeaderProblem::ExtensionTooLarge(size);
        let length = usize::try_from(size)
            .ok()
            .filter(|_| size <= MAX_EXTENSION)
            .ok_or(LayerError::Header { offset: start, problem: too_large })?;
        self.begin_data(size)?;
        let mut bytes = vec![0; length];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn begin_data(&mut self, size: u64) -> Result<(), LayerError> {
        if size > MAX_ARCHIVE {
            return Err(LayerError::TooLarge { limit: MAX_ARCHIVE });
        }
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK_U64;
        Ok(())
    }

    /// Skips the rest of the entry. Some archivers write no padding after the last one.
    fn skip_data(&mut self) -> Result<(), LayerError> {
        let mut left = self.data;
        let mut block = [0; 8 * BLOCK];
        while left > 0 {
            let count = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
            self.fill(&mut block[..count])?;
            left -= count as u64;
        }
        while self.padding > 0 {
            let count = usize::try_from(self.padding).map_or(BLOCK, |left| left.min(BLOCK));
            match self.read_some(&mut block[..count])? {
                0 => break,
                count => self.padding -= count as u64,
            }
        }
        (self.data, self.padding) = (0, 0);
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), LayerError> {
        if buffer.is_empty() || self.fill_or_end(buffer)? {
            return Ok(());
        }
        Err(LayerError::Truncated { offset: self.offset })
    }

    /// Fills `buffer`; `false` at the end of the input.
    fn fill_or_end(&mut self, buffer: &mut [u8]) -> Result<bool, LayerError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_some(rest)? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(LayerError::Truncated { offset: self.offset }),
                count => filled += count,
            }
        }
        Ok(true)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let count = loop {
            match self.reader.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(LayerError::Read { source }),
                Ok(count) => break count,
            }
        };
        self.offset = self.offset.saturating_add(count as u64);
        if self.offset > MAX_ARCHIVE {
            return Err(LayerError::TooLarge { limit: MAX_ARCHIVE });
        }
        Ok(count)
    }
}

fn metadata(header: &Header, records: &mut Records) -> Result<Metadata, HeaderProblem> {
    let old = header.as_old();
    let id = |record: Option<u64>, bytes: &[u8], name: &'static str| {
        let id = record.map_or_else(|| field(bytes, name), Ok)?;
        u32::try_from(id).map_err(|_| HeaderProblem::Number(name))
    };
    let mode = field(&old.mode, "mode")? & 0o7777;
    let mtime = match records.mtime {
        Some(mtime) => mtime,
        None => Timestamp { seconds: signed_field(&old.mtime, "mtime")?, nanoseconds: 0 },
    };
    Ok(Metadata {
        mode: u16::try_from(mode).map_err(|_| HeaderProblem::Number("mode"))?,
        uid: id(records.uid, &old.uid, "uid")?,
        gid: id(records.gid, &old.gid, "gid")?,
        mtime,
        attributes: std::mem::take(&mut records.attributes),
    })
}

/// A device's numbers, if an image can represent them.
fn device(header: &Header) -> Result<(u32, u32), HeaderProblem> {
    const MAJORS: u64 = 1 << 12;
    const MINORS: u64 = 1 << 20;
    let (major, minor) = match (header.as_gnu(), header.as_ustar()) {
        (Some(gnu), _) => (&gnu.dev_major, &gnu.dev_minor),
        (None, Some(ustar)) => (&ustar.dev_major, &ustar.dev_minor),
        (None, None) => return Err(HeaderProblem::Number("devmajor")),
    };
    let within = |bytes, name, limit| match field(bytes, name)? {
        number if number < limit => u32::try_from(number).map_err(|_| HeaderProblem::Number(name)),
        _ => Err(HeaderProblem::Number(name)),
    };
    Ok((within(major, "devmajor", MAJORS)?, within(minor, "devminor", MINORS)?))
}

/// A long name without its final NUL.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(length);
    bytes
}
