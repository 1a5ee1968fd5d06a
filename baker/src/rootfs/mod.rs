//! Root file systems: an image's layers become one EROFS image.
//!
//! Owns everything between layer blobs and the image file. Does not fetch blobs and does not know the
//! image's config. Reads layers into a tree in memory, spools file contents to a scratch file, and
//! writes an uncompressed, reproducible image. Unpacks nothing on the host: it needs no privileges, no
//! path can escape, and owners, devices and attributes stay as in the layers.
//!
//! Images share content in units of 64 KiB. The metadata comes first and depends on all layers: names,
//! owners, attributes, small files, locations of contents. Then each layer has a [`Region`] with the
//! contents of its other regular files. A region depends on its layer and those below it, so it has
//! the same bytes in every image that starts with these layers, at different offsets; and usually in
//! every image with that layer, as a region lacks only what a layer below contains too. As in the
//! layers themselves, contents that an upper layer replaces or hides remain: no name leads to them,
//! but they can be read from the image.
//!
//! Invariant: an image is written only after every byte of every layer was read and verified.

mod archive;
mod build;
mod content;
mod erofs;
mod error;
mod layer;
mod path;
#[cfg(test)]
mod samples;
mod source;
mod spool;
mod tree;

pub use self::build::{Region, RootfsImage, build};
pub use self::error::{EntryError, Error, HeaderProblem, LayerError};
pub use self::layer::read_layer;
pub use self::source::{Compression, Directories, LayerSource};
pub use self::spool::Spool;
pub use self::tree::Tree;
