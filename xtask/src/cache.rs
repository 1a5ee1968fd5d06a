//! Where the tasks keep what they made: `${XDG_CACHE_HOME:-~/.cache}/supermachine`.
//!
//! A folder in the cache is whole or absent: it is made under another name in the
//! same place, then renamed, by one process at a time.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The cache's root.
pub(crate) fn root() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let base = base.unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())).join(".cache")
    });
    base.join("supermachine")
}

/// What only development needs: hosts, test images, the test registry.
pub(crate) fn dev() -> PathBuf {
    root().join("dev")
}

/// A lock that ends with the value, or with the process.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Waits until nobody else holds the lock at `path`.
pub(crate) fn lock(path: &Path) -> Result<Lock, Error> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
    }
    let file = File::create(path).map_err(Error::file("create", path))?;
    // SAFETY: flock takes any open descriptor, and `file` owns this one.
    let done = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    if done != 0 {
        return Err(Error::file("lock", path)(std::io::Error::last_os_error()));
    }
    Ok(Lock { _file: file })
}

/// Returns the folder `path`, and has `make` fill it first if it is not there yet.
pub(crate) fn folder(
    path: &Path,
    make: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<PathBuf, Error> {
    if path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let beside = |suffix: &str| {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(suffix);
        path.with_file_name(name)
    };
    let _lock = lock(&beside(".lock"))?;
    if path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let scratch = beside(".part");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).map_err(Error::file("remove", &scratch))?;
    }
    fs::create_dir_all(&scratch).map_err(Error::file("create", &scratch))?;
    make(&scratch)?;
    sync(&scratch)?;
    fs::rename(&scratch, path).map_err(Error::file("rename", &scratch))?;
    Ok(path.to_path_buf())
}

/// Has a file's content reach the disk.
pub(crate) fn sync(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|f| f.sync_all()).map_err(Error::file("sync", path))
}
