//! Paths that are longer than a kernel walks at once.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// Walks a path in pieces of at most `most` bytes, with one step for each.
pub(in crate::os) fn walk(
    start: &OwnedFd,
    path: &[u8],
    most: usize,
    step: impl Fn(&OwnedFd, &[u8]) -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    let mut rest = path;
    let mut reached: Option<OwnedFd> = None;
    while rest.len() > most {
        let (piece, later) = split(rest, most).ok_or(Errno::NAMETOOLONG)?;
        reached = Some(step(reached.as_ref().unwrap_or(start), piece)?);
        rest = later;
    }
    let rest = if rest.is_empty() { b"." } else { rest };
    step(reached.as_ref().unwrap_or(start), rest)
}

/// Splits a path at the last slash that the kernel walks to at once.
fn split(path: &[u8], most: usize) -> Option<(&[u8], &[u8])> {
    let at = path.get(..most)?.iter().rposition(|byte| *byte == b'/')?;
    Some((path.get(..at)?, path.get(at + 1..)?))
}
