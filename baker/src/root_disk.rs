//! The root file system as a disk: made once for a stack of layers, and how a guest has it.

use std::fs::File;

use supermachine::image::Stamps;
use supermachine::machine::layout::ROOT_SLOT;
use supermachine::machine::{block_disk, mapped_disk};
use supermachine_formats::snapshot::Disk;
use supermachine_formats::snapshot::device::Slot;
use supermachine_formats::{Digest, Hasher};

use crate::oci::{self, OciImage};
use crate::rootfs::{self, LayerSource};
use crate::{BakeError, Store};

/// A change of what is written to disks must change this, so that what was remembered before
/// is not taken for it.
const RECIPE: u16 = 2;

/// How a guest reaches its root file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RootDisk {
    /// Mapped into its memory: file pages are the host's, shared by all machines.
    #[default]
    Mapped,
    /// By requests to a disk: file pages are copied into each machine's memory. For hosts whose
    /// processors cannot address the window that a mapped disk needs.
    Block,
}

impl RootDisk {
    /// The disk in its slot, as the only one of a machine.
    pub(crate) fn slot(self, size: u64) -> Slot {
        match self {
            Self::Mapped => mapped_disk(ROOT_SLOT, 0, size),
            Self::Block => block_disk(0),
        }
    }

    /// The disk's name in the guest, and whether its file pages can be used in place.
    pub(crate) fn device(self) -> (&'static str, bool) {
        match self {
            Self::Mapped => ("pmem0", true),
            Self::Block => ("vda", false),
        }
    }
}

/// Finds the image's root file system among the store's blobs, or makes it.
pub(crate) fn find_or_make(store: &Store, image: &OciImage) -> Result<Disk, BakeError> {
    let mut hasher = Hasher::new();
    hasher.update(b"root disk");
    hasher.update(&RECIPE.to_le_bytes());
    for layer in &image.layers {
        hasher.update(&layer.diff_id.0);
    }
    let key = hasher.finish();
    let _turn = store.lock(key)?;
    let blob = match store.made(key) {
        Some(blob) => blob,
        None => make(store, image, key)?,
    };
    let size = store.blob_size(blob).unwrap_or(0);
    Ok(Disk { blob, size })
}

fn make(store: &Store, image: &OciImage, key: Digest) -> Result<Digest, BakeError> {
    let layers: Vec<LayerSource> = image.layers.iter().map(layer_source).collect();
    let scratch = store.dir().join("tmp");
    let out = store.blobs().temp_file()?;
    let made = rootfs::build(&layers, &scratch, out.path())
        .map_err(|source| BakeError::Rootfs { source })?;
    let path = store.blobs().path(made.digest);
    oci::persist(out, &path)?;
    let file = File::open(&path).map_err(BakeError::io("open", &path))?;
    // It was hashed as it was written: it need not be read again to be trusted.
    Stamps::new(store.cache())
        .record(&made.digest, &file)
        .map_err(BakeError::machine("storing of the root file system"))?;
    store.remember(key, made.digest)?;
    Ok(made.digest)
}

fn layer_source(layer: &oci::Layer) -> LayerSource {
    LayerSource {
        path: layer.path.clone(),
        compression: layer.compression,
        diff_id: layer.diff_id,
        name: layer.digest,
    }
}
