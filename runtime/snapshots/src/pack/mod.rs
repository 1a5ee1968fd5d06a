//! Packs: snapshots in their portable form, read where they lie.
//!
//! A pack is an OCI artifact in an image-layout folder, which can hold many that share blobs,
//! or in one file that is the same as a tar, on disk or in the program. This module finds a
//! snapshot in any of them, reads its small parts, gives chunks, and writes new snapshots beside
//! their parents. Invariant: nothing leaves it that was not checked against the digest that
//! names it, and nothing it reads makes it take more memory than the limits of
//! [`supermachine_formats::pack`].

mod archive;
mod chunk;
mod chunk_writer;
mod compose;
mod content;
mod error;
mod layout;
mod manifest;
mod source;
#[cfg(test)]
mod tests;

use std::path::Path;

use supermachine_formats::Digest;
use supermachine_formats::pack::{Index, MAX_INDEX_SIZE, MAX_STATE_SIZE};
use supermachine_formats::snapshot::Snapshot;

use manifest::MAX_MANIFEST;

pub use chunk::{ChunkReader, FRAME_HEADER};
pub use chunk_writer::{ChunkWriter, DEFAULT_LEVEL};
pub use compose::{BlobList, Composition, MemoryChange};
pub use error::PackError;
pub use layout::{BlobWriter, Hold, Layout, is_name, remove_leftovers};
pub use manifest::{Descriptor, MANIFEST_TYPE, Manifest, NAME_ANNOTATION, Named};
pub use source::{BlobFile, Source};

/// A snapshot in its portable form, opened and checked but for its chunks.
#[derive(Debug)]
pub struct Pack {
    /// The digest of its manifest, which is its name everywhere.
    pub digest: Digest,
    /// What it consists of.
    pub manifest: Manifest,
    /// The state file as it is stored.
    pub state: Vec<u8>,
    /// The state.
    pub snapshot: Snapshot,
    /// Where its chunks are.
    pub index: Index,
    /// The blobs of the index, in its order, each found and of the right size.
    pub blobs: Vec<BlobFile>,
}

impl Pack {
    /// Opens the snapshot whose manifest has this digest.
    ///
    /// # Errors
    /// [`PackError`] names the part that is missing, damaged or of another version.
    pub fn open(source: &Source, digest: Digest) -> Result<Self, PackError> {
        let manifest = Manifest::read(source, digest)?;
        // Nothing here needs it, but what it tells people must be what the snapshot's maker said.
        source.read("config", &manifest.config, MAX_MANIFEST)?;
        let state = source.read("state", &manifest.state, MAX_STATE_SIZE)?;
        let snapshot =
            Snapshot::decode(&state).map_err(|source| PackError::State { digest, source })?;
        let index = source.read("index", &manifest.index, MAX_INDEX_SIZE)?;
        let index = Index::decode(&index).map_err(|source| PackError::Index { digest, source })?;
        check_sizes(&snapshot, &index)?;
        check_blobs(&manifest, &index)?;
        let blobs = manifest
            .chunks
            .iter()
            .map(|descriptor| source.blob("chunks", descriptor))
            .collect::<Result<_, _>>()?;
        Ok(Self { digest, manifest, state, snapshot, index, blobs })
    }

    /// Opens a snapshot in the file or folder at `path`: the one of this name, or the only one.
    ///
    /// # Errors
    /// Those of [`Source::open`], [`Source::find`] and [`Pack::open`].
    pub fn open_at(path: &Path, name: Option<&str>) -> Result<Self, PackError> {
        let source = Source::open(path)?;
        let digest = source.find(name)?;
        Self::open(&source, digest)
    }
}

/// Memory and disks are as large as the state file says.
fn check_sizes(snapshot: &Snapshot, index: &Index) -> Result<(), PackError> {
    let inconsistent = |what| Err(PackError::Inconsistent { what });
    if index.memory.size != snapshot.machine.memory_size {
        return inconsistent("another size of memory in its index than in its state");
    }
    let told = snapshot.disks.iter().map(|disk| disk.size);
    if !index.disks.iter().map(|disk| disk.size).eq(told) {
        return inconsistent("other disks in its index than in its state");
    }
    Ok(())
}

/// The manifest lists the index's blobs, so that tools copy all of them.
fn check_blobs(manifest: &Manifest, index: &Index) -> Result<(), PackError> {
    let told = manifest.chunks.iter().map(|descriptor| (descriptor.digest, descriptor.size));
    let wanted = index.blobs.iter().map(|blob| (blob.digest, blob.size()));
    if told.eq(wanted) {
        Ok(())
    } else {
        Err(PackError::Inconsistent { what: "other blobs in its index than in its manifest" })
    }
}
