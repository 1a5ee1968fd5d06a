//! Layers as files: the input of an image.

use std::path::PathBuf;

use supermachine_formats::Digest;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Uncompressed.
    None,
    /// Gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// A layer's blob on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSource {
    /// The file.
    pub path: PathBuf,
    /// How it is compressed.
    pub compression: Compression,
    /// The digest of the uncompressed content, from the image's config.
    pub diff_id: Digest,
    /// The digest of the blob, for errors.
    pub name: Digest,
    /// How its directories affect those of lower layers.
    pub directories: Directories,
}

/// How a layer's directory affects one of a lower layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Directories {
    /// It replaces mode, owner and time, and replaces a link.
    #[default]
    Replace,
    /// It is created only if neither a directory nor a link to one exists.
    Keep,
}
