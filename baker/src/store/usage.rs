//! What everything in a store takes.

use std::collections::BTreeMap;

use supermachine_snapshots::mapped::cache_use;

use super::Store;
use super::marks::Marks;
use crate::BakeError;

/// Bytes of everything in a store and its cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// For each name, what no other name leads to, and what others lead to as well.
    pub snapshots: BTreeMap<String, (u64, u64)>,
    /// All blobs.
    pub blobs: u64,
    /// Blobs that no name leads to and that are kept for bakes to come.
    pub kept: u64,
    /// Blobs that a sweep would remove.
    pub unreferenced: u64,
    /// Mapped forms in the cache, those of other stores too.
    pub mapped: u64,
}

impl Store {
    /// Finds out what everything takes.
    ///
    /// # Errors
    /// A folder or a snapshot with a name cannot be read.
    pub fn usage(&self) -> Result<Usage, BakeError> {
        let marks = Marks::of(self, false)?;
        let mut usage = Usage { mapped: cache_use(self.cache()).bytes, ..Usage::default() };
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
