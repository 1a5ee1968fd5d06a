//! An opened pack, with its small parts read and checked.

use std::fmt;
use std::path::Path;

use supermachine_formats::Digest;
use supermachine_formats::pack::{Index, MAX_INDEX_SIZE, MAX_STATE_SIZE};
use supermachine_formats::snapshot::Snapshot;

use super::manifest::{MAX_MANIFEST, Manifest};
use super::source::{BlobFile, Source};
use crate::error::PackError;

/// A snapshot in its portable form. All of it is checked but its chunks, which are checked on
/// reading.
pub struct Pack {
    /// The digest of its manifest, which identifies it everywhere.
    pub digest: Digest,
    /// Its manifest.
    pub manifest: Manifest,
    /// The stored state file.
    pub state: Vec<u8>,
    /// The state.
    pub snapshot: Snapshot,
    /// The index of its chunks.
    pub index: Index,
    /// The blobs of the index, in its order, each with the right size.
    pub blobs: Vec<BlobFile>,
}

impl fmt::Debug for Pack {
    /// Leaves out the content, which is long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pack").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Pack {
    /// Opens the snapshot whose manifest has this digest.
    ///
    /// # Errors
    /// [`PackError`] names the part that is missing, damaged or of another version.
    pub fn open(source: &Source, digest: Digest) -> Result<Self, PackError> {
        let manifest = Manifest::read(source, digest)?;
        // Not needed here, but people read it, so it must be undamaged.
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

    /// Opens a snapshot in the file or folder at `path`: the one with this name, or the only one.
    ///
    /// # Errors
    /// Those of [`Source::open`], [`Source::find`] and [`Pack::open`].
    pub fn open_at(path: &Path, name: Option<&str>) -> Result<Self, PackError> {
        let source = Source::open(path)?;
        let digest = source.find(name)?;
        Self::open(&source, digest)
    }
}

/// Checks that the index and the state agree on the sizes of memory and disks.
fn check_sizes(snapshot: &Snapshot, index: &Index) -> Result<(), PackError> {
    let inconsistent = |what| Err(PackError::Inconsistent { what });
    if index.memory.size != snapshot.machine.memory_size {
        return inconsistent("a memory size that differs between index and state");
    }
    let sizes = snapshot.disks.iter().map(|disk| disk.size);
    if !index.disks.iter().map(|disk| disk.size).eq(sizes) {
        return inconsistent("disks that differ between index and state");
    }
    Ok(())
}

/// Checks that the manifest lists the index's blobs, so that tools copy all of them.
fn check_blobs(manifest: &Manifest, index: &Index) -> Result<(), PackError> {
    let listed = manifest.chunks.iter().map(|descriptor| (descriptor.digest, descriptor.size));
    let wanted = index.blobs.iter().map(|blob| (blob.digest, blob.size()));
    if listed.eq(wanted) {
        Ok(())
    } else {
        Err(PackError::Inconsistent { what: "blobs that differ between index and manifest" })
    }
}
