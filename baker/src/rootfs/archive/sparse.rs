//! Files with holes, in the four ways in which GNU tar writes them.

use std::io::Read;

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::super::error::{HeaderProblem, LayerError};
use super::super::spool::Segment;
use super::number::field;
use super::pax::{Records, decimal};
use super::{Archive, BLOCK, EntryKind};

/// Parts that one file's map may list.
const MAX_SEGMENTS: usize = 1 << 18;

impl<R: Read> Archive<R> {
    /// A regular file, whose pax records may say that it has holes. Its data has begun.
    pub(super) fn regular_file(
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
        check(&segments, size, self.data).map_err(at)?;
        Ok(EntryKind::File { size, segments })
    }

    /// A file of the old GNU type `S`, whose map stands in its header and in blocks after it.
    pub(super) fn old_sparse_file(
        &mut self,
        start: u64,
        stored: u64,
        header: &Header,
    ) -> Result<EntryKind, LayerError> {
        let at = |problem| LayerError::Header { offset: start, problem };
        let gnu = header.as_gnu().ok_or(at(HeaderProblem::SparseMap))?;
        let size = field(&gnu.realsize, "realsize").map_err(at)?;
        let mut segments = Vec::new();
        collect(&gnu.sparse, &mut segments).map_err(at)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.fill(block.as_mut_bytes())?;
            collect(block.sparse(), &mut segments).map_err(at)?;
            more = block.is_extended();
        }
        check(&segments, size, stored).map_err(at)?;
        self.begin_data(stored)?;
        Ok(EntryKind::File { size, segments })
    }

    /// The map of format 1.0: decimal lines, filled up to a whole block.
    fn map_before_data(&mut self, start: u64) -> Result<Vec<Segment>, LayerError> {
        let at = |problem| LayerError::Header { offset: start, problem };
        let mut lines = Lines { block: [0; BLOCK], next: BLOCK };
        let count = lines.number(self, start)?;
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= MAX_SEGMENTS)
            .ok_or(at(HeaderProblem::SparseMap))?;
        let mut segments = Vec::new();
        for _ in 0..count {
            let offset = lines.number(self, start)?;
            segments.push(Segment { start: offset, length: lines.number(self, start)? });
        }
        Ok(segments)
    }
}

/// Numbers of a map, read block by block from the current entry's data.
struct Lines {
    block: [u8; BLOCK],
    next: usize,
}

impl Lines {
    fn number<R: Read>(&mut self, archive: &mut Archive<R>, start: u64) -> Result<u64, LayerError> {
        const LONGEST: usize = 20;
        let mut digits = Vec::new();
        while digits.len() <= LONGEST {
            if self.next == BLOCK {
                archive.read_exact(&mut self.block)?;
                self.next = 0;
            }
            let byte = self.block.get(self.next).copied().unwrap_or(0);
            self.next += 1;
            if byte == b'\n' {
                break;
            }
            digits.push(byte);
        }
        decimal(&digits, "GNU.sparse.map")
            .map_err(|problem| LayerError::Header { offset: start, problem })
    }
}

fn collect(headers: &[GnuSparseHeader], segments: &mut Vec<Segment>) -> Result<(), HeaderProblem> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        if segments.len() == MAX_SEGMENTS {
            return Err(HeaderProblem::SparseMap);
        }
        let start = field(&header.offset, "sparse offset")?;
        segments.push(Segment { start, length: field(&header.numbytes, "sparse length")? });
    }
    Ok(())
}

/// Segments must ascend, end within `size`, and together be all the data there is.
fn check(segments: &[Segment], size: u64, stored: u64) -> Result<(), HeaderProblem> {
    let (mut end, mut total) = (0_u64, 0_u64);
    for segment in segments {
        if segment.start < end {
            return Err(HeaderProblem::SparseMap);
        }
        end = segment.start.checked_add(segment.length).ok_or(HeaderProblem::SparseMap)?;
        total = total.checked_add(segment.length).ok_or(HeaderProblem::SparseMap)?;
    }
    if end > size || total != stored {
        return Err(HeaderProblem::SparseMap);
    }
    Ok(())
}
