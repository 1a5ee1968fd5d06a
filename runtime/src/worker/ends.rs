//! What a machine has beside its snapshot, on its way to a worker: the host's ends of a network, of
//! folders and of volumes.
//!
//! The bytes are the network, which is a `u8`, and if that is 1, the fields of [`wire::Network`], the
//! list of shares, each `slot` `u8`, `target` bytes, `read_only` `bool`, and the list of volumes, each
//! `slot` `u8`, `name` and `target` bytes, `size` `u64`, `read_only` `bool`. With a network, the first
//! file is the other end of its link; the lanes of the shares and the files of the volumes follow.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::vec::IntoIter;

use supermachine_formats::codec::{DecodeError, Put, Reader};
use supermachine_formats::wire;
use supermachine_vmm::VolumeDisk;

use super::parcel::Parcel;
use crate::Error;
use crate::disks::Stored;
use crate::error::WorkerError;
use crate::network::Plug;
use crate::shares::{LANES, Lanes, Shared};

/// The most bytes of the ends of a machine: names and short numbers.
pub(super) const MAX_ENDS: u64 = 1 << 20;
/// The most files of the ends of a machine.
pub(super) const MAX_END_FILES: usize = 1 + wire::MAX_SHARES * LANES + wire::MAX_VOLUMES;
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

/// The worker's side of [`Ends`].
#[derive(Debug)]
pub(super) struct OpenedEnds {
    pub(super) plug: Option<Plug>,
    pub(super) shared: Vec<Shared>,
    pub(super) stored: Vec<Stored>,
}

impl<'a> Ends<'a> {
    /// Packs the ends of a machine that has its snapshot already.
    pub(super) fn pack(&self) -> Parcel<BorrowedFd<'a>> {
        let (mut bytes, mut files) = (Vec::new(), Vec::new());
        self.put(&mut bytes, &mut files);
        Parcel { bytes, files }
    }

    /// Appends them.
    pub(super) fn put(&self, bytes: &mut Vec<u8>, files: &mut Vec<BorrowedFd<'a>>) {
        bytes.put_option(self.plug, |out, plug| plug.setup.put(out));
        bytes.put_list(self.shares, |out, RemoteShare { setup, .. }| {
            out.put_u8(setup.slot);
            out.put_byte_string(&setup.target);
            out.put_bool(setup.read_only);
        });
        bytes.put_list(self.volumes, |out, volume| {
            out.put_u8(volume.slot);
            out.put_byte_string(volume.name.as_bytes());
            out.put_byte_string(volume.target.as_bytes());
            out.put_u64(volume.disk.size());
            out.put_bool(volume.disk.is_read_only());
        });
        files.extend(self.plug.map(|plug| plug.frames.as_fd()));
        files.extend(self.shares.iter().flat_map(|share| &share.lanes).map(AsFd::as_fd));
        files.extend(self.volumes.iter().map(|volume| volume.disk.file().as_fd()));
    }
}

/// Opens what [`Ends::pack`] packed.
pub(super) fn open(parcel: Parcel) -> Result<OpenedEnds, Error> {
    let mut reader = Reader::new(&parcel.bytes);
    let ends = read(&mut reader, &mut parcel.files.into_iter())?;
    reader.finish().map_err(malformed)?;
    Ok(ends)
}

/// Reads what [`Ends::put`] wrote.
pub(super) fn read(
    reader: &mut Reader<'_>,
    files: &mut IntoIter<OwnedFd>,
) -> Result<OpenedEnds, Error> {
    let setup = reader.option("network", wire::Network::read).map_err(malformed)?;
    let shares = reader.list("shares", wire::MAX_SHARES, MIN_SHARE, read_share);
    let shares = shares.map_err(malformed)?;
    let volumes = reader.list("volumes", wire::MAX_VOLUMES, MIN_VOLUME, read_volume);
    let volumes = volumes.map_err(malformed)?;
    let plug = match setup {
        Some(setup) => Some(Plug { frames: OwnedFd::from(next(files)?).into(), setup }),
        None => None,
    };
    let shared = open_shares(shares, files)?;
    let stored = open_volumes(volumes, files)?;
    Ok(OpenedEnds { plug, shared, stored })
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

pub(super) fn next(files: &mut IntoIter<OwnedFd>) -> Result<File, Error> {
    files.next().map(File::from).ok_or_else(|| illegal("number of files"))
}

pub(super) fn illegal(field: &'static str) -> Error {
    malformed(DecodeError::Illegal { field, offset: 0, value: 0 })
}

pub(super) fn malformed(source: DecodeError) -> Error {
    WorkerError::Protocol { source }.into()
}
