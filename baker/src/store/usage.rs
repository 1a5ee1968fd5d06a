//! Disk usage of a store.

use std::collections::BTreeMap;

use supermachine_snapshots::mapped::cache_use;

use super::handle::Store;
use super::marks::Marks;
use crate::error::BakeError;
use crate::oci::BlobStore;

/// Disk usage of a store and its cache, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// For each name, the bytes that it alone references, and those that others reference too.
    pub snapshots: BTreeMap<String, (u64, u64)>,
    /// All blobs.
    pub blobs: u64,
    /// Unnamed blobs that are kept for later bakes.
    pub kept: u64,
    /// Blobs that a sweep would remove.
    pub unreferenced: u64,
    /// Mapped forms in the cache, including those of other stores.
    pub mapped: u64,
    /// Downloaded layers in the cache.
    pub downloads: u64,
}

impl Store {
    /// Measures the store and its cache.
    ///
    /// # Errors
    /// A folder or a named snapshot cannot be read.
    pub fn usage(&self) -> Result<Usage, BakeError> {
        let marks = Marks::of(self, false)?;
        let mut usage = Usage { mapped: cache_use(self.cache()).bytes, ..Usage::default() };
        let downloads = BlobStore::open(self.cache().join("downloads"))?.layers()?;
        usage.downloads = downloads.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes));
        for (digest, _, bytes) in self.blobs()? {
            usage.blobs = usage.blobs.saturating_add(bytes);
            let names = digest.and_then(|digest| marks.named.get(&digest));
            let is_kept = digest.is_some_and(|digest| marks.kept.contains(&digest));
            match names {
                None if is_kept => usage.kept = usage.kept.saturating_add(bytes),
                None => usage.unreferenced = usage.unreferenced.saturating_add(bytes),
                Some(names) => {
                    for name in names {
                        let (own, shared) = usage.snapshots.entry(name.clone()).or_default();
                        let part = if names.len() == 1 { own } else { shared };
                        *part = part.saturating_add(bytes);
                    }
                }
            }
        }
        Ok(usage)
    }
}
