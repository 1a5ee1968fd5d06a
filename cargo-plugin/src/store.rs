//! Finds and opens the store.
//!
//! The only module that reads folders from the environment.

use std::env;
use std::path::{Path, PathBuf};

use supermachine::image::default_cache;
use supermachine_baker::{BakeError, Store, StoreError};
use supermachine_snapshots::pack::{PackError, Source};

use crate::error::{Error, HostError};

/// The folder of snapshots: the wanted folder, or the user's data folder.
pub(crate) fn dir(wanted: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(dir) = wanted.filter(|dir| !dir.as_os_str().is_empty()) {
        return std::path::absolute(dir).map_err(|_| HostError::NoStore.into());
    }
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/share")))
        .ok_or(HostError::NoStore)?;
    Ok(data.join("supermachine"))
}

/// The path of Docker's configuration, in `$DOCKER_CONFIG` or `~/.docker`.
pub(crate) fn docker_config() -> Option<PathBuf> {
    let named = env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let dir = named.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".docker")))?;
    Some(dir.join("config.json"))
}

/// Whether a program of this name is in `PATH`.
pub(crate) fn is_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Opens the store, or creates it.
pub(crate) fn open(wanted: Option<&Path>) -> Result<Store, Error> {
    Ok(Store::open(dir(wanted)?)?)
}

/// Opens the store if it exists. Lookups create no folders.
pub(crate) fn open_existing(wanted: Option<&Path>) -> Result<Option<Store>, Error> {
    let dir = dir(wanted)?;
    if dir.join("index.json").is_file() { Ok(Some(Store::open(dir)?)) } else { Ok(None) }
}

/// Opens the store if it exists, or if anything in the cache is worth counting and cleaning.
pub(crate) fn open_with_cache(wanted: Option<&Path>) -> Result<Option<Store>, Error> {
    let cached = default_cache().is_ok_and(|cache| cache.join("downloads").is_dir());
    if cached { open(wanted).map(Some) } else { open_existing(wanted) }
}

/// Opens the store to look up this snapshot. A missing store is a missing snapshot.
pub(crate) fn open_for(wanted: Option<&Path>, name: &str) -> Result<Store, Error> {
    let no_such_name = |store| {
        Error::from(BakeError::Store(StoreError::NoSuchName { name: name.to_owned(), store }))
    };
    open_existing(wanted)?.map_or_else(|| Err(no_such_name(dir(wanted)?)), Ok)
}

/// Whether the store has a snapshot of this name. Cheaper than opening the store, and creates no
/// folders.
pub(crate) fn has(dir: &Path, name: &str) -> Result<bool, Error> {
    match Source::open(dir).and_then(|source| source.find(Some(name))) {
        Ok(_) => Ok(true),
        Err(
            PackError::Missing { .. } | PackError::NotAPack { .. } | PackError::NoSuchName { .. },
        ) => Ok(false),
        Err(source) => Err(supermachine::Error::from(source).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_found_only_in_its_store() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!has(&dir.path().join("nosuch"), "web").unwrap());
        assert!(!has(dir.path(), "web").unwrap());
        let digest = supermachine_formats::Digest::of(b"");
        let blobs = dir.path().join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(digest.hex()), b"").unwrap();
        let entry = |name: &str| {
            format!(
                r#"{{"digest":"{digest}","size":0,"annotations":{{"org.opencontainers.image.ref.name":"{name}"}}}}"#
            )
        };
        let index = dir.path().join("index.json");
        std::fs::write(&index, format!(r#"{{"manifests":[{}]}}"#, entry("web"))).unwrap();
        assert!(has(dir.path(), "web").unwrap());
        assert!(!has(dir.path(), "other").unwrap());
        std::fs::write(&index, "{").unwrap();
        assert!(has(dir.path(), "web").is_err());
    }
}
