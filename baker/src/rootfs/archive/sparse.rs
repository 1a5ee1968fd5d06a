//! Maps of files with holes, in the four ways in which GNU tar writes them.

use tar::GnuSparseHeader;

use super::super::error::{HeaderProblem, LayerError};
use super::super::spool::Segment;
use super::block::BLOCK;
use super::number::field;
use super::pax::decimal;

/// The most parts of a map.
pub(super) const MAX_SEGMENTS: usize = 1 << 18;

/// The longest number of a map, in digits.
const LONGEST: usize = 20;

/// Reads the numbers of a map in decimal lines, block by block.
pub(super) struct Lines<F> {
    read_block: F,
    block: [u8; BLOCK],
    next: usize,
}

impl<F: FnMut(&mut [u8; BLOCK]) -> Result<(), LayerError>> Lines<F> {
    pub(super) fn new(read_block: F) -> Self {
        Self { read_block, block: [0; BLOCK], next: BLOCK }
    }

    /// Parses the next line as a number.
    pub(super) fn number(&mut self) -> Result<Result<u64, HeaderProblem>, LayerError> {
        let mut digits = Vec::new();
        while digits.len() <= LONGEST {
            if self.next == BLOCK {
                (self.read_block)(&mut self.block)?;
                self.next = 0;
            }
            let byte = self.block.get(self.next).copied().unwrap_or(0);
            self.next += 1;
            if byte == b'\n' {
                break;
            }
            digits.push(byte);
        }
        Ok(decimal(&digits, "GNU.sparse.map"))
    }
}

pub(super) fn collect(
    headers: &[GnuSparseHeader],
    segments: &mut Vec<Segment>,
) -> Result<(), HeaderProblem> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        if segments.len() == MAX_SEGMENTS {
            return Err(HeaderProblem::SparseMap);
        }
        let start = field(&header.offset, "sparse offset")?;
        segments.push(Segment { start, length: field(&header.numbytes, "sparse length")? });
    }
    Ok(())
}

/// Checks that segments ascend, are within `size`, and cover all the data.
pub(super) fn check(segments: &[Segment], size: u64, stored: u64) -> Result<(), HeaderProblem> {
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
