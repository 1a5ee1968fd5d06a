//! From layers to an image file.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind};
use std::path::Path;

use supermachine_formats::Digest;

use super::erofs::{self, WriteError, Written};
use super::error::{Error, LayerError};
use super::layer;
use super::source::LayerSource;
use super::spool::Spool;
use super::tree::Tree;

const SPOOL_BUFFER: usize = 1 << 20;

/// A written image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsImage {
    /// The SHA-256 of the whole file.
    pub digest: Digest,
    /// The file's size in bytes, a multiple of 2 MiB.
    pub size: u64,
    /// The number of inodes.
    pub inodes: u64,
    /// The size of the metadata, which precedes the regions and depends on all layers, in bytes; a
    /// multiple of 64 KiB.
    pub metadata_size: u64,
    /// The regions with the layers' file contents, lowest layer first and contiguous. A layer without
    /// contents has no region.
    pub regions: Vec<Region>,
}

/// The part of an image with the file contents that one layer adds. It has the same bytes in every
/// image with that layer on the same layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The offset in the image, in bytes; a multiple of 64 KiB.
    pub offset: u64,
    /// The length in bytes, padded with zeros to a multiple of 64 KiB; never zero.
    pub length: u64,
}

/// Writes the EROFS image of `layers`, lowest first, to the file `out`, which it creates or
/// overwrites. File contents pass through an unnamed file in the folder `scratch`.
///
/// # Errors
/// [`Error`] if a layer is damaged or invalid, or a file of the host cannot be used. Removes `out`
/// then.
pub fn build(layers: &[LayerSource], scratch: &Path, out: &Path) -> Result<RootfsImage, Error> {
    let spool_file =
        tempfile::tempfile_in(scratch).map_err(file_error("make a scratch file in", scratch))?;
    let mut spool = Spool::new(BufWriter::with_capacity(SPOOL_BUFFER, spool_file));
    let mut tree = Tree::new();
    let mut regions = Vec::new();
    for source in layers {
        let offset = spool.length();
        layer::apply(source, &mut tree, &mut spool).map_err(|error| about(error, scratch))?;
        let length = spool.length() - offset;
        if length > 0 {
            regions.push(Region { diff_id: source.diff_id, offset, length });
        }
    }
    let contents_size = spool.length();
    let spool_file = spool
        .finish()
        .and_then(|buffered| buffered.into_inner().map_err(io::IntoInnerError::into_error))
        .map_err(file_error("write the scratch file in", scratch))?;
    let file = File::create(out).map_err(file_error("create", out))?;
    let written = erofs::write(&tree, spool_file, contents_size, file).map_err(|error| {
        // Best effort: report the first error.
        let _ = std::fs::remove_file(out);
        match error {
            WriteError::Layout(error) => error,
            WriteError::Spool(source) => file_error("read the scratch file in", scratch)(source),
            WriteError::Output(source) => file_error("write", out)(source),
        }
    })?;
    let Written { digest, size, metadata_size, inodes } = written;
    for region in &mut regions {
        region.offset += metadata_size;
    }
    Ok(RootfsImage { digest, size, inodes, metadata_size, regions })
}

/// A full disk concerns the scratch file, and not the layer.
fn about(error: Error, scratch: &Path) -> Error {
    match error {
        Error::Layer { source: LayerError::Spool { source, .. }, .. }
            if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
        {
            file_error("write the scratch file in", scratch)(source)
        }
        other => other,
    }
}

fn file_error(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_path_buf();
    move |source| Error::File { op, path, source }
}
