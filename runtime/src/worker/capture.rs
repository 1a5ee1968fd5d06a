//! A capture on its way from a worker to its client, which stores it.
//!
//! The bytes are the state, as a byte string, and the runs of written pages: a list of `first`
//! `u64`, `count` `u32`. The file is a sealed one in memory, with the pages one after the other. It
//! passes without a copy, and the client maps it.
//!
//! The client trusts none of it: a guest may have taken over the worker. Sizes are limited by the
//! machine's memory, the seals keep the worker from changing or shortening what the client maps,
//! and the state is decoded as that of an unknown pack.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use supermachine_formats::codec::{Put, Reader};
use supermachine_formats::pack::MAX_STATE_SIZE;
use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::memory::PAGE_SIZE;
use supermachine_vmm::{Captured, DirtyPages, Timings};

use super::parcel::Parcel;
use super::parts::{RUN_SIZE, put_runs, read_runs};

/// Packs a capture.
pub(super) fn pack(captured: Captured) -> io::Result<Parcel> {
    let mut bytes = Vec::new();
    bytes.put_byte_string(&captured.snapshot.encode());
    let (runs, pages) = captured.dirty.into_file()?;
    put_runs(&mut bytes, &runs);
    Ok(Parcel { bytes, files: vec![pages.into()] })
}

/// Receives the capture of a machine with this much memory, whose guest was paused for `stopped`.
pub(super) fn receive(
    stream: &mut UnixStream,
    memory_size: u64,
    stopped: Duration,
) -> io::Result<Captured> {
    let runs = (memory_size / PAGE_SIZE).div_ceil(2).saturating_mul(RUN_SIZE as u64);
    let limit = MAX_STATE_SIZE.saturating_add(runs).saturating_add(8);
    let Parcel { bytes, files } = Parcel::receive(stream, limit, 1)?;
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut reader = Reader::new(&bytes);
    let state = reader.byte_string("state", MAX_STATE_SIZE as usize).map_err(invalid)?;
    let snapshot = Snapshot::decode(state)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let runs = read_runs(&mut reader).map_err(invalid)?;
    reader.finish().map_err(invalid)?;
    let pages = files.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
    let dirty = DirtyPages::from_file(runs, &pages.into(), memory_size)?;
    Ok(Captured { snapshot, dirty, stopped: Timings::of_step("stopped", stopped) })
}
