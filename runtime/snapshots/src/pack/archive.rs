//! Archives: an image layout in a tar file.
//!
//! It indexes the members and unpacks nothing. Invariant: every member is within the file.

use std::collections::BTreeMap;
use std::path::Path;

use super::content::Content;
use crate::error::PackError;

const BLOCK: u64 = 512;
/// The limit on members: an image layout has a few files for each snapshot.
const MAX_MEMBERS: usize = 1 << 20;
const REGULAR: [u8; 2] = [b'0', 0];

/// The extent of a member's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// Finds the regular files of an archive, by their names without a leading `./`.
pub(super) fn members(
    archive: &Content,
    path: &Path,
) -> Result<BTreeMap<String, Member>, PackError> {
    let damaged = |offset, what| PackError::Archive { path: path.to_owned(), offset, what };
    let io = |source| PackError::Io { operation: "read", path: path.to_owned(), source };
    let length = archive.size().map_err(io)?;
    let mut members = BTreeMap::new();
    let mut at = 0;
    while at + BLOCK <= length {
        let mut header = [0; BLOCK as usize];
        archive.read_exact_at(&mut header, at).map_err(io)?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(members);
        }
        if !checksum_fits(&header) {
            return Err(damaged(at, "a header with a wrong checksum"));
        }
        let size = number(header.get(124..136)).ok_or_else(|| damaged(at, "a malformed size"))?;
        let offset = at + BLOCK;
        let end = offset.checked_add(size).filter(|end| *end <= length);
        let Some(end) = end else { return Err(damaged(at, "a member beyond the end")) };
        if members.len() == MAX_MEMBERS {
            return Err(damaged(at, "too many members"));
        }
        if REGULAR.contains(header.get(156).unwrap_or(&b'?')) {
            let name = name(&header).ok_or_else(|| damaged(at, "a name that is not text"))?;
            members.insert(name, Member { offset, size });
        }
        at = end.div_ceil(BLOCK) * BLOCK;
    }
    let is_empty = "an empty file, as a build without snapshots leaves";
    Err(damaged(at.min(length), if length == 0 { is_empty } else { "no end" }))
}

/// The sum of all bytes of the header, with the checksum field as spaces.
fn checksum_fits(header: &[u8; BLOCK as usize]) -> bool {
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte }))
        .sum();
    number(header.get(148..156)) == Some(sum)
}

/// An octal number, or a binary one if its first bit is set.
fn number(field: Option<&[u8]>) -> Option<u64> {
    let field = field?;
    if let Some((0x80, rest)) = field.split_first() {
        return rest
            .iter()
            .try_fold(0_u64, |value, byte| value.checked_mul(256)?.checked_add(u64::from(*byte)));
    }
    let text = str::from_utf8(field).ok()?;
    let digits = text.trim_matches(|letter| letter == ' ' || letter == '\0');
    // The parser would accept a sign.
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, 8).ok()
}

/// The name, with ustar's prefix.
fn name(header: &[u8; BLOCK as usize]) -> Option<String> {
    let text = |range: std::ops::Range<usize>| {
        let field = header.get(range)?;
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        str::from_utf8(field.get(..end)?).ok()
    };
    let is_ustar = header.get(257..262) == Some(b"ustar");
    let prefix = if is_ustar { text(345..500)? } else { "" };
    let name = text(0..100)?;
    let whole = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
    Some(whole.strip_prefix("./").unwrap_or(&whole).to_owned())
}
