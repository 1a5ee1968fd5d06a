//! The root file system as a disk, built once for a stack of layers.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use supermachine_formats::pack::{Blob, CHUNK_SIZE, Index, Layer, Space};
use supermachine_formats::snapshot::device::Slot;
use supermachine_formats::{Digest, Hasher};
use supermachine_snapshots::mapped::adopt_disk;
use supermachine_snapshots::pack::{BlobList, ChunkWriter, PackError, remove_leftovers};
use supermachine_vmm::layout::{PMEM_STRIDE, ROOT_SLOT};
use supermachine_vmm::{block_disk, mapped_disk};

use crate::error::BakeError;
use crate::oci::{self, Directories};
use crate::rootfs::{self, LayerSource};
use crate::store::Store;

/// The version of what is written to disks. Bump it with every change, so that cached disks are
/// built again.
pub(crate) const RECIPE: u16 = 5;

/// How a guest accesses its root file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RootDisk {
    /// Mapped into its address space: the guest's kernel copies a page into its page cache when it is
    /// first read, without a request to the host. Pages that were read before the snapshot are shared
    /// by all of its machines. An image that the address space has no room for becomes a
    /// [`RootDisk::Block`]: on arm64 one over 2 GiB.
    #[default]
    Mapped,
    /// A disk that is read by requests to the host. For hosts whose processors cannot address the
    /// window that a mapped disk needs.
    Block,
}

impl RootDisk {
    /// The same, or a disk behind requests if the guest's address space has no room to map this many
    /// bytes.
    pub(crate) fn fitting(self, size: u64) -> Self {
        if size > PMEM_STRIDE { Self::Block } else { self }
    }

    /// The slot of a machine's only disk.
    pub(crate) fn slot(self, size: u64) -> Slot {
        match self {
            Self::Mapped => mapped_disk(ROOT_SLOT, 0, size),
            Self::Block => block_disk(0),
        }
    }

    /// The disk's name in the guest.
    pub(crate) fn device(self) -> &'static str {
        match self {
            Self::Mapped => "pmem0",
            Self::Block => "vda",
        }
    }
}

/// Finds a root file system in the store by the digests of its uncompressed layers, or builds it from
/// `layers`. Returns an index with one disk.
pub(crate) fn find_or_make(
    store: &Store,
    diff_ids: &[(Digest, Directories)],
    level: i32,
    layers: impl FnOnce() -> Result<Vec<oci::Layer>, BakeError>,
) -> Result<Index, BakeError> {
    let mut hasher = Hasher::new();
    hasher.update(b"root disk");
    hasher.update(&RECIPE.to_le_bytes());
    hasher.update(&level.to_le_bytes());
    for (diff_id, directories) in diff_ids {
        hasher.update(&diff_id.0);
        hasher.update(&[*directories as u8]);
    }
    let key = hasher.finish();
    let _turn = store.lock(key)?;
    if let Some(index) = known(store, key) {
        return Ok(index);
    }
    let index = make(store, &layers()?, level)?;
    store.remember(key, store.layout().put(&index.encode())?.digest)?;
    Ok(index)
}

/// A disk built before, if all of its blobs still exist.
fn known(store: &Store, key: Digest) -> Option<Index> {
    let bytes = fs::read(store.layout().blob_path(store.made(key)?)).ok()?;
    let index = Index::decode(&bytes).ok()?;
    let is_there = |blob: &Blob| store.blob_size(blob.digest) == Some(blob.size());
    index.blobs.iter().all(is_there).then_some(index)
}

fn make(store: &Store, layers: &[oci::Layer], level: i32) -> Result<Index, BakeError> {
    let layers: Vec<LayerSource> = layers.iter().map(layer_source).collect();
    let scratch = store.cache().join("tmp");
    fs::create_dir_all(&scratch).map_err(BakeError::io("create", &scratch))?;
    remove_leftovers(&scratch, "");
    let out = tempfile::Builder::new()
        .prefix("disk-")
        .tempfile_in(&scratch)
        .map_err(BakeError::io("create a file in", &scratch))?;
    // An unlocked file counts as a leftover.
    out.as_file().lock().map_err(BakeError::io("lock", out.path()))?;
    let made = rootfs::build(&layers, &scratch, out.path())
        .map_err(|source| BakeError::Rootfs { folder: scratch.clone(), source: source.into() })?;
    let file = File::open(out.path()).map_err(BakeError::io("open", out.path()))?;
    let mut parts = vec![(0, made.metadata_size)];
    parts.extend(made.regions.iter().map(|region| (region.offset, region.length)));
    // One blob for the metadata, and one per layer, which other images can share.
    let mut blobs = BlobList::default();
    let mut chunks = Vec::new();
    for (offset, length) in parts {
        let numbers = store_part(store, &file, (offset, length), level, &mut blobs)?;
        let places = (offset / CHUNK_SIZE..).filter_map(|place| u32::try_from(place).ok());
        chunks.extend(places.zip(numbers).filter(|(_, number)| number.is_some()));
    }
    let disk = Space { size: made.size, layers: vec![Layer::of(chunks)] };
    let index = Index {
        blobs: blobs.into_blobs(),
        // An index cannot lack a memory.
        memory: Space::empty(CHUNK_SIZE),
        disks: vec![disk],
        first_use: Vec::new(),
    };
    // The file is the expanded form already.
    adopt_disk(store.cache(), &index, 0, out.path())
        .map_err(supermachine::Error::from)
        .map_err(BakeError::machine("storing of the root file system"))?;
    Ok(index)
}

/// Stores a range of the file as a blob. Returns the number of each chunk.
fn store_part(
    store: &Store,
    file: &File,
    (offset, length): (u64, u64),
    level: i32,
    blobs: &mut BlobList,
) -> Result<Vec<Option<u32>>, BakeError> {
    let mut writer = ChunkWriter::new(store.layout(), level)?;
    let count = usize::try_from(length / CHUNK_SIZE).unwrap_or(usize::MAX);
    let numbers = writer.add(count, |number, chunk| {
        let at = offset + number as u64 * CHUNK_SIZE;
        file.read_exact_at(chunk, at).map_err(|source| PackError::Io {
            operation: "read the root file system in",
            path: store.cache().to_owned(),
            source,
        })
    })?;
    let Some(blob) = writer.finish()? else { return Ok(numbers) };
    let start = blobs.add(&blob)?;
    Ok(numbers.into_iter().map(|number| Some(start + number?)).collect())
}

fn layer_source(layer: &oci::Layer) -> LayerSource {
    LayerSource {
        path: layer.path.clone(),
        compression: layer.compression,
        diff_id: layer.diff_id,
        name: layer.digest,
        directories: layer.directories,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_that_no_window_holds_is_read_by_requests() {
        assert_eq!(RootDisk::Mapped.fitting(PMEM_STRIDE), RootDisk::Mapped);
        assert_eq!(RootDisk::Mapped.fitting(PMEM_STRIDE + 1), RootDisk::Block);
        assert_eq!(RootDisk::Block.fitting(1), RootDisk::Block);
    }
}
