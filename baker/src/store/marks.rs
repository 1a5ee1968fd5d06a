//! References: from names to manifests, from manifests to blobs, from keys to cached results.
//!
//! Follows manifests of other artifacts in the folder too. Invariant: everything reachable from a
//! name is marked, or marking fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use supermachine_formats::Digest;
use supermachine_formats::pack::{Index, MAX_INDEX_SIZE};
use supermachine_formats::snapshot::Stage;
use supermachine_snapshots::mapped::CacheParts;
use supermachine_snapshots::pack::{Manifest, PackError, Source};

use super::handle::Store;
use super::summary::Summary;
use crate::error::{BakeError, StoreError};

/// The largest document to follow.
const MAX_DOCUMENT: u64 = 4 << 20;
/// How often an index may refer to another.
const MAX_DEPTH: usize = 8;

/// The reachable content of a store.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The blobs reachable from names, and those names.
    pub(super) named: BTreeMap<Digest, BTreeSet<String>>,
    /// The blobs kept only for later bakes.
    pub(super) kept: BTreeSet<Digest>,
    /// Keys of unreachable results.
    pub(super) dead_keys: Vec<PathBuf>,
    /// The parts of reachable mapped forms.
    pub(super) cache: CacheParts,
}

impl Marks {
    /// Marks what is reachable from names, and what later bakes can use: bases, unless `is_strict`, and
    /// the root file systems of reachable snapshots.
    pub(super) fn of(store: &Store, is_strict: bool) -> Result<Self, BakeError> {
        let mut marks = Self::default();
        let source = store.source()?;
        for entry in entries(store)? {
            let broken = |source| {
                BakeError::Store(StoreError::Unreadable {
                    name: entry.name.clone(),
                    source: Box::new(source),
                })
            };
            marks.follow(&source, &entry.name, entry.digest, MAX_DEPTH).map_err(broken)?;
        }
        let keys = keys(store)?;
        for (_, made) in &keys {
            let Some(summary) = made.and_then(|made| base(store, made)) else { continue };
            if !is_strict {
                marks.kept.extend(summary.blobs().map(|blob| blob.digest));
                marks.add_forms(&source, &summary.manifest, summary.descriptor.digest);
            }
        }
        for (_, made) in &keys {
            let Some(made) = made.filter(|made| !marks.has(*made)) else { continue };
            let Some(index) = root_disk(store, made) else { continue };
            if index.blobs.iter().all(|blob| marks.has(blob.digest)) {
                marks.kept.insert(made);
                marks.cache.add_files(&index);
            }
        }
        let is_dead = |made: &Option<Digest>| made.is_none_or(|made| !marks.has(made));
        let dead = keys.into_iter().filter(|(_, made)| is_dead(made));
        marks.dead_keys = dead.map(|(path, _)| path).collect();
        Ok(marks)
    }

    pub(super) fn has(&self, blob: Digest) -> bool {
        self.named.contains_key(&blob) || self.kept.contains(&blob)
    }

    /// Marks a manifest and everything that it lists.
    fn follow(
        &mut self,
        source: &Source,
        name: &str,
        digest: Digest,
        depth: usize,
    ) -> Result<(), PackError> {
        self.mark(name, digest);
        let document = read_document(source, digest)?;
        let listed = ["config", "subject"].map(|key| document.get(key)).into_iter().flatten();
        let lists = ["layers", "blobs"].map(|key| document.get(key).and_then(Value::as_array));
        for blob in listed.chain(lists.into_iter().flatten().flatten()).filter_map(digest_in) {
            self.mark(name, blob);
        }
        let manifests = document.get("manifests").and_then(Value::as_array);
        for below in manifests.into_iter().flatten().filter_map(digest_in) {
            if depth == 0 {
                return Err(PackError::Inconsistent { what: "indexes of indexes without end" });
            }
            self.follow(source, name, below, depth - 1)?;
        }
        if let Ok(manifest) = Manifest::read(source, digest) {
            self.add_forms(source, &manifest, digest);
        }
        Ok(())
    }

    fn mark(&mut self, name: &str, blob: Digest) {
        self.named.entry(blob).or_default().insert(name.to_owned());
    }

    /// The mapped form of an unreadable snapshot is useless.
    fn add_forms(&mut self, source: &Source, manifest: &Manifest, digest: Digest) {
        let bytes = source.read("index", &manifest.index, MAX_INDEX_SIZE);
        if let Some(index) = bytes.ok().and_then(|bytes| Index::decode(&bytes).ok()) {
            self.cache.add(digest, &index);
        }
    }
}

/// An entry of the folder's index, of any kind.
struct Entry {
    name: String,
    digest: Digest,
}

/// All entries, including those of other artifacts.
fn entries(store: &Store) -> Result<Vec<Entry>, BakeError> {
    let section = "index.json";
    let path = store.dir().join(section);
    let text = fs::read(&path).map_err(BakeError::io("read", path))?;
    let index: Value =
        serde_json::from_slice(&text).map_err(|source| PackError::Json { section, source })?;
    let wrong = |what| BakeError::from(PackError::Document { section, what });
    let list = index.get("manifests").and_then(Value::as_array);
    let entry = |entry: &Value| {
        let name = entry.pointer("/annotations/org.opencontainers.image.ref.name");
        let digest = digest_in(entry).ok_or_else(|| wrong("an entry without a digest"))?;
        let name = name.and_then(Value::as_str).map_or_else(|| digest.to_string(), str::to_owned);
        Ok(Entry { name, digest })
    };
    list.ok_or_else(|| wrong("no list of manifests"))?.iter().map(entry).collect()
}

fn digest_in(descriptor: &Value) -> Option<Digest> {
    descriptor.get("digest")?.as_str()?.parse().ok()
}

/// Reads a document and verifies its digest.
fn read_document(source: &Source, digest: Digest) -> Result<Value, PackError> {
    let section = "manifest";
    let bytes = source.read_unsized(section, digest, MAX_DOCUMENT)?;
    serde_json::from_slice(&bytes).map_err(|source| PackError::Json { section, source })
}

/// The files of all keys, and their results.
fn keys(store: &Store) -> Result<Vec<(PathBuf, Option<Digest>)>, BakeError> {
    let dir = store.dir().join("keys");
    let entries = fs::read_dir(&dir).map_err(BakeError::io("read", &dir))?;
    let mut keys = Vec::new();
    for entry in entries {
        let path = entry.map_err(BakeError::io("read", &dir))?.path();
        let made = fs::read_to_string(&path).ok().and_then(|text| text.trim_end().parse().ok());
        keys.push((path, made));
    }
    keys.sort();
    Ok(keys)
}

/// The base with this manifest, if it is a complete one.
fn base(store: &Store, digest: Digest) -> Option<Summary> {
    let summary = store.summary(digest).ok()?;
    let is_there = |blob| store.blob_size(blob).is_some();
    let is_base = summary.snapshot.machine.stage == Stage::Base;
    (is_base && summary.blobs().all(|blob| is_there(blob.digest))).then_some(summary)
}

/// The root file system with this index, if it is one.
fn root_disk(store: &Store, digest: Digest) -> Option<Index> {
    let size = store.blob_size(digest).filter(|size| *size <= MAX_INDEX_SIZE)?;
    let bytes = fs::read(store.layout().blob_path(digest)).ok()?;
    (bytes.len() as u64 == size).then_some(())?;
    Index::decode(&bytes).ok()
}
