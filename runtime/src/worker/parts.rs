//! What a machine starts from, on its way to a worker: opened files, and no path.
//!
//! The client opens everything, see [`pack`], and the worker maps it, see [`open`]. The bytes are
//! the state, as a byte string, the [`ends`](super::ends), whose files are the first ones, and a `u8`:
//!
//! - 0: files. A list of overlays, each with the list of its runs: `first` `u64`, `count` `u32`. The
//!   files are the memory of the base, those of the overlays, and the disks.
//! - 1: chunks. The index, as a byte string, and for each of its blobs the `u64` offset in its file.
//!   The files are those of the blobs, and a stream that the worker closes once the chunks of first
//!   use are in place.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::vec::IntoIter;

use supermachine_formats::codec::{DecodeError, Put, Reader};
use supermachine_formats::pack::{Index, MAX_INDEX_SIZE, MAX_STATE_SIZE};
use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::memory::Run;
use supermachine_snapshots::mapped::{Mapped, PackChunks};
use supermachine_snapshots::pack::BlobFile;
use supermachine_vmm::{MemoryFiles, Origin, Overlay, Restore};

use super::ends::{self, Ends, OpenedEnds, illegal, malformed, next};
use super::parcel::Parcel;
use crate::Error;
use crate::disks::Stored;
use crate::image::Content;
use crate::machine::{Setup, plugged};
use crate::shares::Shared;

/// The size of a run in bytes.
pub(super) const RUN_SIZE: usize = 12;

/// The snapshot's own overlay, and that of a fork.
const MAX_OVERLAYS: usize = 2;

/// Packs the parts of a snapshot. A machine from chunks needs the stream `first_use`.
pub(super) fn pack<'a>(
    snapshot: &Snapshot,
    content: &'a Content,
    first_use: Option<&'a UnixStream>,
    ends: &Ends<'a>,
) -> Parcel<BorrowedFd<'a>> {
    let (mut bytes, mut files) = (Vec::new(), Vec::new());
    bytes.put_byte_string(&snapshot.encode());
    ends.put(&mut bytes, &mut files);
    match content {
        Content::Mapped(Mapped { memory: MemoryFiles { base, overlays }, disks }) => {
            bytes.put_u8(0);
            bytes.put_list(overlays, |out, overlay| put_runs(out, &overlay.runs));
            files.push(base.as_fd());
            files.extend(overlays.iter().map(|overlay| overlay.file.as_fd()));
            files.extend(disks.iter().map(AsFd::as_fd));
        }
        Content::Pack(pack) => {
            bytes.put_u8(1);
            bytes.put_byte_string(&pack.index.encode());
            pack.blobs.iter().for_each(|blob| bytes.put_u64(blob.offset));
            files.extend(pack.blobs.iter().filter_map(|blob| Some(blob.file()?.as_fd())));
            files.extend(first_use.map(AsFd::as_fd));
        }
    }
    Parcel { bytes, files }
}

/// Opens the parts of a machine, and what its agent sets up, without the host name.
pub(super) fn open(parcel: Parcel) -> Result<(Restore, Setup<'static>), Error> {
    let mut reader = Reader::new(&parcel.bytes);
    let mut files = parcel.files.into_iter();
    let state = reader.byte_string("state", MAX_STATE_SIZE as usize).map_err(malformed)?;
    let snapshot = Snapshot::decode_trusted(state).map_err(|_| illegal("state"))?;
    let OpenedEnds { plug, shared, stored } = ends::read(&mut reader, &mut files)?;
    let origin = match reader.u8("origin").map_err(malformed)? {
        0 => open_files(&mut reader, &mut files)?,
        1 => open_chunks(&mut reader, &mut files)?,
        _ => return Err(illegal("origin")),
    };
    reader.finish().map_err(malformed)?;
    let (network, setup) = plugged(plug)?;
    let shares = shared.iter().map(Shared::end).collect();
    let volumes = stored.iter().map(Stored::end).collect();
    let restore = Restore { snapshot: Arc::new(snapshot), origin, network, shares, volumes };
    let shares = shared.iter().map(Shared::setup).collect();
    let volumes = stored.iter().map(Stored::setup).collect();
    Ok((restore, Setup { hostname: None, network: setup, shares, volumes }))
}

fn open_files(reader: &mut Reader<'_>, files: &mut IntoIter<OwnedFd>) -> Result<Origin, Error> {
    let runs = reader.list("overlays", MAX_OVERLAYS, size_of::<u32>(), read_runs);
    let runs = runs.map_err(malformed)?;
    let base = Arc::new(next(files)?);
    let mut overlays = Vec::with_capacity(runs.len());
    for runs in runs {
        overlays.push(Overlay { file: Arc::new(next(files)?), runs: runs.into() });
    }
    let disks = files.map(|file| Arc::new(File::from(file))).collect();
    Ok(Origin::Files { memory: MemoryFiles { base, overlays }, disks })
}

fn open_chunks(reader: &mut Reader<'_>, files: &mut IntoIter<OwnedFd>) -> Result<Origin, Error> {
    let index = reader.byte_string("index", MAX_INDEX_SIZE as usize).map_err(malformed)?;
    let index = Index::decode(index).map_err(|_| illegal("index"))?;
    let mut blobs = Vec::with_capacity(index.blobs.len());
    for blob in &index.blobs {
        let offset = reader.u64("offset").map_err(malformed)?;
        blobs.push(BlobFile::new(next(files)?, offset, blob.size(), blob.digest));
    }
    let first_use = next(files)?;
    let chunks = PackChunks::new(&index, &blobs, Box::new(move || drop(first_use)))?;
    Ok(Origin::Chunks(Box::new(chunks)))
}

pub(super) fn put_runs(out: &mut Vec<u8>, runs: &[Run]) {
    out.put_list(runs, |out, run| {
        out.put_u64(run.first);
        out.put_u32(run.count);
    });
}

pub(super) fn read_runs(reader: &mut Reader<'_>) -> Result<Vec<Run>, DecodeError> {
    reader.list("runs", usize::MAX, RUN_SIZE, |reader| {
        Ok(Run { first: reader.u64("first")?, count: reader.u32("count")? })
    })
}
