//! Tar archives as a stream of entries.
//!
//! Owns the archive's structure: headers, the extensions that describe the next entry, and
//! each entry's data. Field layouts come from the `tar` crate; its iterator is not used,
//! for it splits pax records at newlines, which loses binary attributes such as file
//! capabilities, and reads long names without a bound. Invariants: every read is bounded;
//! the end of the input inside an entry is an error, never the end of the archive.

mod number;
mod pax;
mod sparse;

use std::io::{ErrorKind, Read};

use tar::{EntryType, Header};

use self::number::{field, signed_field};
use self::pax::Records;
use super::error::{HeaderProblem, LayerError};
use super::spool::Segment;
use super::tree::{Metadata, Timestamp};

const BLOCK: usize = 512;
const BLOCK_U64: u64 = 512;
/// What a long name or a set of pax records may take, as in Go's reader.
const MAX_EXTENSION: u64 = 1 << 20;
/// What one layer may uncompress to.
const MAX_ARCHIVE: u64 = 64 << 30;

/// One file as an archive describes it. Its data, if any, is read from the archive next.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) metadata: Metadata,
}

/// What an entry stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    Directory,
    File { size: u64, segments: Vec<Segment> },
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// An archive that is read once, forwards.
pub(super) struct Archive<R> {
    reader: R,
    offset: u64,
    /// Data of the current entry that was not read yet.
    data: u64,
    /// Zeros between that data and the next header.
    padding: u64,
}

/// Headers that describe the entry after them.
#[derive(Default)]
struct Extensions {
    records: Records,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    any: bool,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, offset: 0, data: 0, padding: 0 }
    }

    /// The next entry, or `None` at the archive's end. Unread data is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, LayerError> {
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
                // Global records hold comments of the archiver; container tools ignore them.
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
    pub(super) fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), LayerError> {
        self.data = self
            .data
            .checked_sub(buffer.len() as u64)
            .ok_or(LayerError::Truncated { offset: self.offset })?;
        self.fill(buffer)
    }

    /// Reads what follows the archive's end, so that the whole input was seen.
    pub(super) fn drain(&mut self) -> Result<(), LayerError> {
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
            // Before directories had a type, a trailing slash made them.
            EntryType::Regular if path.ends_with(b"/") && header.as_ustar().is_none() => {
                self.begin_data(stored)?;
                EntryKind::Directory
            }
            EntryType::Regular | EntryType::Continuous => {
                self.begin_data(stored)?;
                self.regular_file(start, stored, &records)?
            }
            EntryType::GNUSparse => self.old_sparse_file(start, stored, header)?,
            // From here on no data follows, whatever the size field says.
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

    fn skip_data(&mut self) -> Result<(), LayerError> {
        let mut left = self.data.saturating_add(self.padding);
        let mut block = [0; 8 * BLOCK];
        while left > 0 {
            let count = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
            self.fill(block.get_mut(..count).unwrap_or_default())?;
            left -= count as u64;
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

    /// Fills `buffer`; `false` if the input ends before its first byte.
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

/// A device's numbers, within what an image can hold.
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

/// A long name without the NUL that ends it.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests;
