//! Packs: snapshots in their portable form, read in place.
//!
//! A pack is an OCI artifact, in an image-layout folder that many packs can share or in a tar file,
//! on disk or embedded in the program. This module finds snapshots, reads their parts and chunks,
//! and writes new snapshots beside their parents. Invariant: it returns no byte that was not
//! checked against its digest, and its memory stays within the limits of
//! [`supermachine_formats::pack`], whatever it reads.

mod archive;
mod blobs;
mod chunk;
mod chunk_writer;
mod compose;
mod content;
mod layout;
mod manifest;
mod opened;
mod source;
#[cfg(test)]
mod tests;

pub use blobs::{BlobDir, BlobWriter, remove_leftovers};
pub use chunk::{ChunkReader, FRAME_HEADER};
pub use chunk_writer::{ChunkWriter, DEFAULT_LEVEL};
pub use compose::{BlobList, Composition, MemoryChange};
pub use layout::{Layout, SweepGuard, is_name, refused_name};
pub use manifest::{Descriptor, MANIFEST_TYPE, Manifest, NAME_ANNOTATION, Named};
pub use opened::Pack;
pub use source::{BlobFile, Source};

pub use crate::error::PackError;
