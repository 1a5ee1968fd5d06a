//! What a machine starts from, on its way to a worker: opened files, and no path.
//!
//! The client opens everything, see [`pack`], and the worker maps it, see [`open`]. The bytes are
//! the state, as a byte string, the network, which is a `u8`, and if that is 1, the fields of
//! [`wire::Network`], the list of shares, each `slot` `u8`, `target` bytes, `read_only` `bool`, the list of
//! volumes, each `slot` `u8`, `name` and `target` bytes, `size` `u64`, `read_only` `bool`, and a `u8`. With a
//! network, the first file is the other end of its link; the lanes of the shares and the files of the volumes
//! follow. Then:
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
use supermachine_formats::wire;
use supermachine_snapshots::mapped::{Mapped, PackChunks};
use supermachine_snapshots::pack::BlobFile;
use supermachine_vmm::{MemoryFiles, Origin, Overlay, Restore, VolumeDisk};

use super::parcel::Parcel;
use crate::Error;
use crate::disks::Stored;
use crate::error::WorkerError;
use crate::image::Content;
use crate::machine::{Setup, plugged};
use crate::network::Plug;
use crate::shares::{LANES, Lanes, Shared};

/// The size of a run in bytes.
pub(super) const RUN_SIZE: usize = 12;

/// The snapshot's own overlay, and that of a fork.
const MAX_OVERLAYS: usize = 2;

/// The least bytes of a share.
const MIN_SHARE: usize = 6;
/// The least bytes of a volume.
const MIN_VOLUME: usize = 18;

/// The client's ends of what the machine has beside its snapshot.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ends<'a> {
    pub(super) plug: Option<&'a Plug>,
    pub(super) shares: &'a [RemoteShare],
    pub(super) volumes: &'a [Stored],
}

/// A folder that the client answers for.
#[derive(Debug)]
pub(super) struct RemoteShare {
    pub(super) setup: wire::Share,
    /// As many streams as there are lanes.
    pub(super) lanes: Vec<UnixStream>,
}

/// Packs the parts of a snapshot. A machine from chunks needs the stream `first_use`.
pub(super) fn pack<'a>(
    snapshot: &Snapshot,
    content: &'a Content,
    first_use: Option<&'a UnixStream>,
    ends: &Ends<'a>,
) -> Parcel<BorrowedFd<'a>> {
    let (mut bytes, mut files) = (Vec::new(), Vec::new());
    bytes.put_byte_string(&snapshot.encode());
    bytes.put_option(ends.plug, |out, plug| plug.setup.put(out));
    bytes.put_list(ends.shares, |out, RemoteShare { setup, .. }| {
        out.put_u8(setup.slot);
        out.put_byte_string(&setup.target);
        out.put_bool(setup.read_only);
    });
    bytes.put_list(ends.volumes, |out, volume| {
        out.put_u8(volume.slot);
        out.put_byte_string(volume.name.as_bytes());
        out.put_byte_string(volume.target.as_bytes());
        out.put_u64(volume.disk.size());
        out.put_bool(volume.disk.is_read_only());
    });
    files.extend(ends.plug.map(|plug| plug.frames.as_fd()));
    files.extend(ends.shares.iter().flat_map(|share| &share.lanes).map(AsFd::as_fd));
    files.extend(ends.volumes.iter().map(|volume| volume.disk.file().as_fd()));
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
    let setup = reader.option("network", wire::Network::read).map_err(malformed)?;
    let most = wire::MAX_SHARES;
    let shares = reader.list("shares", most, MIN_SHARE, read_share).map_err(malformed)?;
    let volumes = reader.list("volumes", wire::MAX_VOLUMES, MIN_VOLUME, read_volume);
    let volumes = volumes.map_err(malformed)?;
    let plug = match setup {
        Some(setup) => Some(Plug { frames: OwnedFd::from(next(&mut files)?).into(), setup }),
        None => None,
    };
    let shared = open_shares(shares, &mut files)?;
    let stored = open_volumes(volumes, &mut files)?;
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

/// Slot, target, and whether it is read-only.
fn read_share(reader: &mut Reader<'_>) -> Result<(u8, String, bool), DecodeError> {
    let slot = reader.u8("slot")?;
    Ok((slot, reader.string("target", wire::MAX_NAME)?, reader.bool("read only")?))
}

/// A volume without its file.
#[derive(Debug)]
struct RemoteVolume {
    slot: u8,
    name: String,
    target: String,
    size: u64,
    is_read_only: bool,
}

fn read_volume(reader: &mut Reader<'_>) -> Result<RemoteVolume, DecodeError> {
    Ok(RemoteVolume {
        slot: reader.u8("slot")?,
        name: reader.string("name", wire::MAX_NAME)?,
        target: reader.string("target", wire::MAX_NAME)?,
        size: reader.u64("size")?,
        is_read_only: reader.bool("read only")?,
    })
}

fn open_volumes(
    volumes: Vec<RemoteVolume>,
    files: &mut IntoIter<OwnedFd>,
) -> Result<Vec<Stored>, Error> {
    let open = |RemoteVolume { slot, name, target, size, is_read_only }| {
        let disk = Arc::new(VolumeDisk::new(next(files)?, size, is_read_only));
        Ok(Stored { slot, name, target, disk })
    };
    volumes.into_iter().map(open).collect()
}

fn open_shares(
    shares: Vec<(u8, String, bool)>,
    files: &mut IntoIter<OwnedFd>,
) -> Result<Vec<Shared>, Error> {
    let open = |(slot, target, is_read_only)| {
        let lanes = (0..LANES).map(|_| Ok(UnixStream::from(OwnedFd::from(next(files)?))));
        let lanes = lanes.collect::<Result<_, Error>>()?;
        Ok(Shared { slot, target, is_read_only, server: Arc::new(Lanes::new(lanes)) })
    };
    shares.into_iter().map(open).collect()
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

fn next(files: &mut IntoIter<OwnedFd>) -> Result<File, Error> {
    files.next().map(File::from).ok_or_else(|| illegal("number of files"))
}

fn illegal(field: &'static str) -> Error {
    malformed(DecodeError::Illegal { field, offset: 0, value: 0 })
}

fn malformed(source: DecodeError) -> Error {
    WorkerError::Protocol { source }.into()
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
