//! Fetched images.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use supermachine_formats::Digest;

use super::config::ImageConfig;
use super::error::Error;
use crate::rootfs::{Compression, Directories};

/// An image whose layers are all in the cache.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OciImage {
    /// The image's full name.
    pub reference: String,
    /// The digest of the image's index, or of its only manifest.
    pub root_digest: Digest,
    /// The digest of the platform's own manifest.
    pub manifest_digest: Digest,
    /// The image's config.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

/// An image whose layers may not be in the cache.
#[derive(Debug, Clone)]
pub(crate) struct ImageDescription {
    pub(crate) reference: String,
    pub(crate) root_digest: Digest,
    pub(crate) manifest_digest: Digest,
    /// Lists as many layers as the manifest has.
    pub(crate) config: ImageConfig,
}

/// One layer: a tar, perhaps compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layer {
    /// The digest of the file.
    pub digest: Digest,
    /// The digest that the uncompressed tar must have; not checked yet unless the file is
    /// uncompressed.
    pub diff_id: Digest,
    /// Bytes of the file.
    pub size: u64,
    /// How the file is compressed, by its first bytes.
    pub compression: Compression,
    /// The file.
    pub path: PathBuf,
    /// How its directories affect those of lower layers.
    pub directories: Directories,
}

/// Detects a file's compression by its first bytes, as media types are often wrong.
pub(crate) fn compression_of(path: &Path) -> Result<Compression, Error> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(4).read_to_end(&mut start))
        .map_err(Error::io("read", path))?;
    Ok(match start.as_slice() {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Compression::Zstd,
        _ => Compression::None,
    })
}
