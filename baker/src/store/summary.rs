//! Descriptions and sizes of snapshots, without reading their chunks.

use std::collections::{BTreeMap, BTreeSet};

use supermachine_formats::Digest;
use supermachine_formats::pack::MAX_STATE_SIZE;
use supermachine_formats::snapshot::Snapshot;
use supermachine_snapshots::pack::{Descriptor, Manifest, Pack, PackError};

use super::handle::Store;
use super::import::sections;
use crate::error::BakeError;

/// The most parents to follow.
const MAX_ANCESTORS: usize = 256;

/// A snapshot's description.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Summary {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// Its parts.
    pub manifest: Manifest,
    /// Its state.
    pub snapshot: Snapshot,
}

/// The sizes of a snapshot's parts in its store, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sizes {
    /// Manifest, configuration, state and index.
    pub description: u64,
    /// Chunks of memory.
    pub memory: u64,
    /// Chunks of disks.
    pub disks: u64,
}

/// The size of a snapshot, and how much others share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Footprint {
    /// Bytes that no other name references.
    pub own: Sizes,
    /// Bytes that other names reference too.
    pub shared: Sizes,
    /// The shared bytes per other name.
    pub shared_with: BTreeMap<String, u64>,
}

impl Summary {
    /// The manifest and all blobs that it lists, each once.
    pub fn blobs(&self) -> impl Iterator<Item = Descriptor> {
        self.sections().map(|(_, blob)| blob)
    }

    /// The same, each with its name in errors.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&'static str, Descriptor)> {
        let mut seen = BTreeSet::new();
        let all = [("manifest", self.descriptor)].into_iter().chain(sections(&self.manifest));
        all.filter(move |(_, blob)| seen.insert(blob.digest))
    }

    /// Their total size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blobs().fold(0, |sum, blob| sum.saturating_add(blob.size))
    }
}

impl Sizes {
    /// The total.
    #[must_use]
    pub fn total(self) -> u64 {
        self.description.saturating_add(self.memory).saturating_add(self.disks)
    }
}

impl Store {
    /// Reads a snapshot's manifest and state.
    ///
    /// # Errors
    /// One of them is missing or damaged.
    pub fn summary(&self, digest: Digest) -> Result<Summary, BakeError> {
        let source = self.source()?;
        let manifest = Manifest::read(&source, digest)?;
        let state = source.read("state", &manifest.state, MAX_STATE_SIZE)?;
        let snapshot =
            Snapshot::decode(&state).map_err(|source| PackError::State { digest, source })?;
        let size = self.blob_size(digest).unwrap_or(0);
        Ok(Summary { descriptor: Descriptor { digest, size }, manifest, snapshot })
    }

    /// The snapshot and its ancestors in the store, nearest first.
    ///
    /// # Errors
    /// One of them is damaged.
    pub fn lineage(&self, digest: Digest) -> Result<Vec<Summary>, BakeError> {
        let mut lineage = vec![self.summary(digest)?];
        while let Some(parent) = lineage.last().and_then(|child| child.snapshot.machine.parent)
            && lineage.len() <= MAX_ANCESTORS
            && self.blob_size(parent).is_some()
        {
            lineage.push(self.summary(parent)?);
        }
        Ok(lineage)
    }

    /// The size of the snapshot with this name, and how much other names share.
    ///
    /// # Errors
    /// There is no snapshot with this name, or it is damaged.
    pub fn footprint(&self, name: &str) -> Result<Footprint, BakeError> {
        let digest = self.digest(name)?;
        let summary = self.summary(digest)?;
        let pack = Pack::open(&self.source()?, digest)?;
        let of_disks = disk_blobs(&pack);
        let mut footprint = Footprint::default();
        let mut common = BTreeSet::new();
        for named in self.layout().snapshots()? {
            let Some(other) = named.name.filter(|other| other != name) else { continue };
            // An unreadable snapshot cannot use what it shares.
            let Ok(other_summary) = self.summary(named.descriptor.digest) else { continue };
            let theirs: BTreeSet<Digest> = other_summary.blobs().map(|blob| blob.digest).collect();
            let mut bytes = 0_u64;
            for blob in summary.blobs().filter(|blob| theirs.contains(&blob.digest)) {
                common.insert(blob.digest);
                bytes = bytes.saturating_add(blob.size);
            }
            if bytes > 0 {
                footprint.shared_with.insert(other, bytes);
            }
        }
        let chunks: BTreeSet<Digest> =
            summary.manifest.chunks.iter().map(|blob| blob.digest).collect();
        for Descriptor { digest, size } in summary.blobs() {
            let sizes = match common.contains(&digest) {
                true => &mut footprint.shared,
                false => &mut footprint.own,
            };
            let part = match (chunks.contains(&digest), of_disks.contains(&digest)) {
                (false, _) => &mut sizes.description,
                (true, false) => &mut sizes.memory,
                (true, true) => &mut sizes.disks,
            };
            *part = part.saturating_add(size);
        }
        Ok(footprint)
    }
}

/// The blobs of disks: a blob has chunks either of memory or of disks, so the first one decides.
fn disk_blobs(pack: &Pack) -> BTreeSet<Digest> {
    let numbers: BTreeSet<u32> = pack
        .index
        .disks
        .iter()
        .flat_map(|disk| &disk.layers)
        .flat_map(|layer| layer.chunks().filter_map(|(_, number)| number))
        .collect();
    let mut found = BTreeSet::new();
    let mut first = 0_u32;
    for blob in &pack.index.blobs {
        let next = first.saturating_add(u32::try_from(blob.chunks.len()).unwrap_or(u32::MAX));
        if numbers.range(first..next).next().is_some() {
            found.insert(blob.digest);
        }
        first = next;
    }
    found
}
