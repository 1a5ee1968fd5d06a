//! The store as the commands see it: where it is, and what its snapshots are.
//!
//! Snapshots are read here without unpacking them, so that listing costs little. The only
//! module that asks the environment for folders.

use std::env;
use std::io::Read;
use std::path::{Path, PathBuf};

use supermachine::image::Blobs;
use supermachine_baker::Store;
use supermachine_formats::Digest;
use supermachine_formats::snapshot::Snapshot;

use crate::error::Error;

/// How many parents of a snapshot are followed.
const MAX_ANCESTORS: usize = 64;

/// A snapshot's description and the descriptions of those that it builds on.
#[derive(Debug)]
pub(crate) struct Lineage {
    snapshot: (Digest, Snapshot),
    /// The parent first.
    ancestors: Vec<(Digest, Snapshot)>,
}

/// Bytes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Sizes {
    /// State files.
    pub(crate) state: u64,
    /// Pages of memory.
    pub(crate) pages: u64,
    /// Disks.
    pub(crate) disks: u64,
}

/// The folder of snapshots: what was asked for, else the user's data folder.
pub(crate) fn dir(wanted: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(dir) = wanted.filter(|dir| !dir.as_os_str().is_empty()) {
        return std::path::absolute(dir).map_err(|_| Error::NoStore);
    }
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/share")))
        .ok_or(Error::NoStore)?;
    Ok(data.join("supermachine"))
}

/// Opens the store, or makes it.
pub(crate) fn open(wanted: Option<&Path>) -> Result<Store, Error> {
    Ok(Store::open(dir(wanted)?)?)
}

/// Opens the store if there is one: looking for something makes no folders.
pub(crate) fn open_existing(wanted: Option<&Path>) -> Result<Option<Store>, Error> {
    let dir = dir(wanted)?;
    if dir.join("names").is_dir() { Ok(Some(Store::open(dir)?)) } else { Ok(None) }
}

/// The file that names a snapshot, if there is one of this name. Cheaper than opening the store.
pub(crate) fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let is_path = name.starts_with('.') || name.contains('/');
    let path = dir.join("names").join(name);
    (!is_path && path.is_file()).then_some(path)
}

/// Reads a snapshot's state file.
pub(crate) fn state(store: &Store, digest: Digest) -> Result<Snapshot, supermachine::Error> {
    let blobs = Blobs::new(store.dir());
    let mut bytes = Vec::new();
    blobs.open(&digest, "state")?.read_to_end(&mut bytes).map_err(|source| {
        supermachine::Error::Io { operation: "read", path: blobs.path(&digest), source }
    })?;
    Snapshot::decode(&bytes)
        .map_err(|source| supermachine::Error::Snapshot { snapshot: digest, source })
}

/// Reads a snapshot's state file and those of its ancestors.
pub(crate) fn lineage(store: &Store, digest: Digest) -> Result<Lineage, supermachine::Error> {
    let snapshot = state(store, digest)?;
    let mut ancestors = Vec::new();
    let mut next = snapshot.machine.parent;
    while let Some(current) = next {
        if ancestors.len() == MAX_ANCESTORS {
            let limit = MAX_ANCESTORS;
            return Err(supermachine::Error::TooManyAncestors { snapshot: digest, limit });
        }
        let ancestor = state(store, current)?;
        next = ancestor.machine.parent;
        ancestors.push((current, ancestor));
    }
    Ok(Lineage { snapshot: (digest, snapshot), ancestors })
}

impl Lineage {
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot.1
    }

    /// The snapshot, its parent, and so on.
    pub(crate) fn stages(&self) -> impl Iterator<Item = &(Digest, Snapshot)> {
        std::iter::once(&self.snapshot).chain(&self.ancestors)
    }

    /// Bytes of the snapshot's own files.
    pub(crate) fn own(&self, store: &Store) -> Sizes {
        Sizes::of(store, &self.snapshot)
    }

    /// Bytes of the files of its ancestors, which other snapshots share.
    pub(crate) fn shared(&self, store: &Store) -> Sizes {
        self.ancestors.iter().map(|stage| Sizes::of(store, stage)).fold(
            Sizes::default(),
            |sum, stage| Sizes {
                state: sum.state.saturating_add(stage.state),
                pages: sum.pages.saturating_add(stage.pages),
                disks: sum.disks.saturating_add(stage.disks),
            },
        )
    }
}

impl Sizes {
    pub(crate) fn of(store: &Store, (digest, snapshot): &(Digest, Snapshot)) -> Self {
        let size = |digest| store.blob_size(digest).unwrap_or(0);
        Self {
            state: size(*digest),
            pages: size(snapshot.memory.blob),
            disks: snapshot.disks.iter().map(|disk| size(disk.blob)).sum(),
        }
    }

    pub(crate) fn total(self) -> u64 {
        self.state.saturating_add(self.pages).saturating_add(self.disks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_paths_find_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("names")).unwrap();
        std::fs::write(dir.path().join("names/web"), "").unwrap();
        std::fs::write(dir.path().join("outside"), "").unwrap();
        assert_eq!(find(dir.path(), "web"), Some(dir.path().join("names/web")));
        for name in ["other", "../outside", "./web", "", "web/"] {
            assert_eq!(find(dir.path(), name), None, "{name:?}");
        }
    }
}
