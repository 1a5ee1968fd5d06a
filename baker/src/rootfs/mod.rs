//! Root file systems: an image's layers become one EROFS image.
//!
//! Owns everything between layer blobs and the image file. Does not fetch blobs and does
//! not know the image's configuration. Layers are read into a tree in memory, their file
//! contents put aside in a scratch file, and the tree is written as an uncompressed,
//! reproducible image. Nothing is unpacked on the host: no rights are needed, no path can
//! escape, and owners, devices and attributes stay what the layers say.
//!
//! An image is made to be shared in units of 64 KiB. First comes what depends on all layers:
//! names, owners, attributes, where contents are. Then each layer has a [`Region`] with the
//! contents of its regular files, which depends on that layer alone, so that images of one
//! layer have the same bytes for it, though not at the same place. As in the layers
//! themselves, contents that an upper layer replaces or hides stay where they are: no name
//! leads to them, but whoever has the image can find them.
//!
//! Invariant: an image is written only after every byte of every layer was read and checked.

mod archive;
mod erofs;
mod error;
mod layer;
mod path;
#[cfg(test)]
mod samples;
mod spool;
mod tree;

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use supermachine_formats::Digest;

use self::erofs::{WriteError, Written};

pub use self::error::{EntryError, Error, HeaderProblem, LayerError};
pub use self::layer::read_layer;
pub use self::spool::Spool;
pub use self::tree::Tree;
pub use crate::oci::Compression;

const SPOOL_BUFFER: usize = 1 << 20;

/// A layer's blob on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSource {
    /// The file.
    pub path: PathBuf,
    /// How it is compressed.
    pub compression: Compression,
    /// The digest of the uncompressed bytes, from the image's configuration.
    pub diff_id: Digest,
    /// The digest of the blob, by which errors name it.
    pub name: Digest,
    /// What its directories are to those of lower layers.
    pub directories: Directories,
}

/// What a directory of a layer is to one that lies below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Directories {
    /// It gives that one its mode, owner and time, and takes the place of a link.
    #[default]
    Replace,
    /// It is only made where none is, nor a link to one: what is there stays as it is.
    Keep,
}

/// An image that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsImage {
    /// The SHA-256 of the whole file.
    pub digest: Digest,
    /// The file's size in bytes, a multiple of 2 MiB.
    pub size: u64,
    /// Files, directories and others in it.
    pub inodes: u64,
    /// What comes before the regions and depends on all layers, in bytes; a multiple of
    /// 64 KiB.
    pub metadata_size: u64,
    /// The contents of each layer's files, the lowest layer first, each region right after the
    /// one before. Layers without contents have none.
    pub regions: Vec<Region>,
}

/// The part of an image that holds the contents of one layer's files, and is the same bytes in
/// every image of that layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// Where the region starts in the image, in bytes; a multiple of 64 KiB.
    pub offset: u64,
    /// The region's length in bytes, with the zeros that fill it up to a multiple of 64 KiB;
    /// never zero.
    pub length: u64,
}

/// Writes the EROFS image of `layers`, the lowest first, to the file `out`, which is made
/// or overwritten; the caller renames it into place. Contents pass through an unnamed file
/// in the folder `scratch`.
///
/// # Errors
/// [`Error`] when a layer is damaged or breaks a rule, or a file of the host cannot be
/// used. `out` is removed then.
pub fn build(layers: &[LayerSource], scratch: &Path, out: &Path) -> Result<RootfsImage, Error> {
    let spool_file =
        tempfile::tempfile_in(scratch).map_err(file_error("make a scratch file in", scratch))?;
    let mut spool = Spool::new(BufWriter::with_capacity(SPOOL_BUFFER, spool_file));
    let mut tree = Tree::new();
    let mut regions = Vec::new();
    for source in layers {
        let offset = spool.length();
        layer::apply(source, &mut tree, &mut spool)?;
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
        // What is half-made is of no use; the first error is the one that counts.
        let _ = std::fs::remove_file(out);
        match error {
            WriteError::Plan(error) => error,
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

fn file_error(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_path_buf();
    move |source| Error::File { op, path, source }
}
