//! The tasks' cache: `${XDG_CACHE_HOME:-~/.cache}/supermachine`.
//!
//! A folder in the cache is complete or absent: one process at a time fills it under another name
//! beside its final place, then renames it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use supermachine_kernel::Arch;

use crate::error::Error;

/// The cache's root.
pub(crate) fn root() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let base = base.unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())).join(".cache")
    });
    base.join("supermachine")
}

/// The part for development only: hosts, test images, the test registry.
pub(crate) fn dev() -> PathBuf {
    root().join("dev")
}

/// The name of what each architecture has of its own, in the cache. That of x86_64 came first, and is
/// the plain one.
pub(crate) fn name_for(arch: Arch, name: &str) -> String {
    match arch {
        Arch::X86_64 => name.to_owned(),
        Arch::Aarch64 => format!("{name}-{}", arch.name()),
    }
}

/// The start of a digest in hex: enough to tell the versions of one thing apart.
pub(crate) fn short_name(digest: &[u8]) -> String {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A lock that is released when the value is dropped or the process exits.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Acquires the lock at `path`, waiting for its holder.
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

/// Returns the folder `path`. If it does not exist, `make` fills it first.
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

/// Flushes a file to disk.
pub(crate) fn sync(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|f| f.sync_all()).map_err(Error::file("sync", path))
}
