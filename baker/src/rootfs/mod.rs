//! Root file systems: an image's layers become one EROFS image.
//!
//! Owns everything between layer blobs and the image file. Does not fetch blobs and does
//! not know the image's configuration. Layers are read into a tree in memory, their file
//! contents put aside in a scratch file, and the tree is written as an uncompressed,
//! reproducible image. Nothing is unpacked on the host: no rights are needed, no path can
//! escape, and owners, devices and attributes stay what the layers say. Invariant: an image
//! is written only after every byte of every layer was read and checked.

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
    for source in layers {
        layer::apply(source, &mut tree, &mut spool)?;
    }
    let spool_file = spool
        .finish()
        .and_then(|buffered| buffered.into_inner().map_err(io::IntoInnerError::into_error))
        .map_err(file_error("write the scratch file in", scratch))?;
    let file = File::create(out).map_err(file_error("create", out))?;
    let written = erofs::write(&tree, spool_file, file).map_err(|error| {
        // What is half-made is of no use; the first error is the one that counts.
        let _ = std::fs::remove_file(out);
        match error {
            WriteError::Plan(error) => error,
            WriteError::Spool(source) => file_error("read the scratch file in", scratch)(source),
            WriteError::Output(source) => file_error("write", out)(source),
        }
    })?;
    let Written { digest, size, inodes } = written;
    Ok(RootfsImage { digest, size, inodes })
}

fn file_error(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_path_buf();
    move |source| Error::File { op, path, source }
}
