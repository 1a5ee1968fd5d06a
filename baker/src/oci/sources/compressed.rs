//! Archives that cannot be read in place: compressed ones, and pipes.

use std::fs::File;
use std::io::{self, Chain, Cursor, Read, Seek, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use xz2::read::XzDecoder;

use crate::oci::cache::BlobStore;
use crate::oci::error::{ArchiveProblem, Error};
use crate::oci::kept_archive::STANDARD_INPUT;

/// The most bytes of an uncompressed archive.
const MAX_ARCHIVE: u64 = 256 << 30;

/// How many bytes are copied at a time.
const PIECE: usize = 1 << 20;

/// An open archive, and its first bytes.
pub(super) struct Input {
    source: Opened,
    start: Vec<u8>,
    pub(super) is_dir: bool,
}

enum Opened {
    File(File),
    Stream(Box<dyn Read>),
}

/// An archive's bytes, still compressed.
pub(super) type Stream = Chain<Cursor<Vec<u8>>, Box<dyn Read>>;

impl Input {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let mut start = Vec::new();
        if path == Path::new(STANDARD_INPUT) {
            let mut stdin = io::stdin();
            (&mut stdin).take(6).read_to_end(&mut start).map_err(Error::io("read", path))?;
            return Ok(Self { source: Opened::Stream(Box::new(stdin)), start, is_dir: false });
        }
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let metadata = file.metadata().map_err(Error::io("read", path))?;
        if metadata.is_dir() {
            return Ok(Self { source: Opened::File(file), start, is_dir: true });
        }
        (&mut file).take(6).read_to_end(&mut start).map_err(Error::io("read", path))?;
        let source =
            if metadata.is_file() { Opened::File(file) } else { Opened::Stream(Box::new(file)) };
        Ok(Self { source, start, is_dir: false })
    }

    /// The file if it can be read in place, else its bytes.
    pub(super) fn into_file(self) -> Result<File, Stream> {
        let rest: Box<dyn Read> = match self.source {
            Opened::File(file) if compression(&self.start).is_none() => return Ok(file),
            Opened::File(file) => Box::new(file),
            Opened::Stream(stream) => stream,
        };
        Err(Cursor::new(self.start).chain(rest))
    }
}

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compressed {
    Gzip,
    /// Some tools begin with a frame of their own, which is skipped.
    Zstd,
    Xz,
}

fn compression(start: &[u8]) -> Option<Compressed> {
    match start {
        [0x1f, 0x8b, ..] => Some(Compressed::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Some(Compressed::Zstd)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Compressed::Xz),
        _ => None,
    }
}

/// Uncompresses an archive into an unnamed file next to the blobs.
pub(super) fn copied(stream: Stream, path: &Path, blobs: &BlobStore) -> Result<File, Error> {
    let unreadable = |source| Error::Archive {
        path: path.to_owned(),
        source: ArchiveProblem::Unreadable { source },
    };
    let start = stream.get_ref().0.get_ref().clone();
    let mut content: Box<dyn Read> = match compression(&start) {
        Some(Compressed::Gzip) => Box::new(MultiGzDecoder::new(stream)),
        Some(Compressed::Zstd) => {
            Box::new(zstd::stream::read::Decoder::new(stream).map_err(unreadable)?)
        }
        Some(Compressed::Xz) => Box::new(XzDecoder::new_multi_decoder(stream)),
        None => Box::new(stream),
    };
    let mut copy = blobs.scratch_file()?;
    let (mut piece, mut left) = (vec![0; PIECE], MAX_ARCHIVE);
    loop {
        let length = match content.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
        };
        left = left
            .checked_sub(length as u64)
            .ok_or_else(|| unreadable(io::ErrorKind::FileTooLarge.into()))?;
        copy.write_all(&piece[..length])
            .map_err(Error::io("write a copy of the archive to", blobs.dir()))?;
    }
    copy.rewind().map_err(Error::io("read a copy of", path))?;
    Ok(copy)
}
