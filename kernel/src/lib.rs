//! The guest kernel and agent of supermachine, as bytes with their digests.
//!
//! Owns the guest kernel's options (`config/`), the facts of its build ([`recipe`]) and the
//! locations of finished builds. It builds nothing itself: `cargo xtask assets` does, into a
//! folder named by a digest of all inputs. A build of other inputs is therefore never used by
//! mistake.
//!
//! A program that ships the kernel distributes a work under GPL-2.0: see `NOTICE`.
//!
//! ```no_run
//! let assets = supermachine_kernel::Assets::locate()?;
//! println!("{} bytes of kernel", assets.kernel()?.bytes.len());
//! # Ok::<(), supermachine_kernel::Error>(())
//! ```

mod arch;
mod error;
mod place;
pub mod recipe;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use arch::Arch;
pub use error::Error;

/// The agent's file name in its folder.
pub const AGENT_FILE: &str = "init";

/// The kernel options of every architecture.
pub const COMMON_CONFIG: &str = include_str!("../config/common.config");

/// The paths of a kernel and an agent that match this library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assets {
    kernel: PathBuf,
    agent: PathBuf,
}

/// The bytes of a kernel or an agent.
#[derive(Clone, PartialEq, Eq)]
pub struct Asset {
    /// The file's content: an ELF program, or an arm64 kernel's `Image`.
    pub bytes: Vec<u8>,
    /// SHA-256 of `bytes`.
    pub digest: [u8; 32],
}

impl std::fmt::Debug for Asset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asset").field("len", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Assets {
    /// Finds both: as `vmlinux` (on arm64 `Image`) and `init` in the folder `SUPERMACHINE_ASSETS`, if
    /// that is set; otherwise in [`Arch::kernel_dir`] and [`Arch::agent_dir`] of the host.
    ///
    /// # Errors
    /// [`Error::AssetsMissing`] with the first path that does not exist.
    pub fn locate() -> Result<Self, Error> {
        match place::override_dir() {
            Some(folder) => Self::in_dirs(&folder, &folder),
            None => Self::in_dirs(&Arch::host().kernel_dir(), &Arch::host().agent_dir()),
        }
    }

    /// Finds both in these folders.
    ///
    /// # Errors
    /// [`Error::AssetsMissing`] with the first path that does not exist.
    pub fn in_dirs(kernel: &Path, agent: &Path) -> Result<Self, Error> {
        let kernel = kernel.join(Arch::host().kernel_file());
        let assets = Self { kernel, agent: agent.join(AGENT_FILE) };
        for path in [&assets.kernel, &assets.agent] {
            if !path.is_file() {
                return Err(Error::AssetsMissing { path: path.clone() });
            }
        }
        Ok(assets)
    }

    /// The kernel's path.
    #[must_use]
    pub fn kernel_path(&self) -> &Path {
        &self.kernel
    }

    /// The agent's path.
    #[must_use]
    pub fn agent_path(&self) -> &Path {
        &self.agent
    }

    /// Reads the kernel: an uncompressed ELF `vmlinux`, on arm64 an `Image`.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read.
    pub fn kernel(&self) -> Result<Asset, Error> {
        read(&self.kernel)
    }

    /// Reads the agent: a static ELF program.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read.
    pub fn agent(&self) -> Result<Asset, Error> {
        read(&self.agent)
    }
}

/// Identifies the kernel and agent that [`Assets::locate`] finds. This is a digest of their inputs, so
/// they need not be built yet; with `SUPERMACHINE_ASSETS`, it is a digest of their content.
///
/// # Errors
/// With `SUPERMACHINE_ASSETS`, those of [`Assets::locate`] and of reading the files.
pub fn identity() -> Result<[u8; 32], Error> {
    let mut hasher = Sha256::new();
    match place::override_dir() {
        None => {
            hasher.update(b"inputs");
            Arch::host().inputs().iter().for_each(|inputs| hasher.update(inputs));
        }
        Some(folder) => {
            let assets = Assets::in_dirs(&folder, &folder)?;
            hasher.update(b"content");
            hasher.update(assets.kernel()?.digest);
            hasher.update(assets.agent()?.digest);
        }
    }
    Ok(hasher.finalize().into())
}

/// Writes the kernel to `path`, atomically.
///
/// # Errors
/// [`Error::AssetsMissing`] if it has not been built, [`Error::File`] if it cannot be copied.
pub fn extract_kernel_to(path: impl AsRef<Path>) -> Result<(), Error> {
    write(path.as_ref(), &Assets::locate()?.kernel()?.bytes, 0o644)
}

/// Writes the agent to `path`, atomically, as an executable.
///
/// # Errors
/// [`Error::AssetsMissing`] if it has not been built, [`Error::File`] if it cannot be copied.
pub fn extract_init_oci_to(path: impl AsRef<Path>) -> Result<(), Error> {
    write(path.as_ref(), &Assets::locate()?.agent()?.bytes, 0o755)
}

fn read(path: &Path) -> Result<Asset, Error> {
    let bytes = fs::read(path).map_err(Error::file("read", path))?;
    let digest = Sha256::digest(&bytes).into();
    Ok(Asset { bytes, digest })
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.part", std::process::id()));
    let scratch = path.with_file_name(name);
    let done = fill(&scratch, bytes, mode).and_then(|()| {
        fs::rename(&scratch, path).map_err(Error::file("rename", &scratch))?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        File::open(folder).and_then(|f| f.sync_all()).map_err(Error::file("sync", folder))
    });
    if done.is_err() {
        // The first error is the one to report. The scratch file may not exist.
        let _ = fs::remove_file(&scratch);
    }
    done
}

fn fill(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(path).map_err(Error::file("create", path))?;
    file.write_all(bytes).map_err(Error::file("write", path))?;
    file.sync_all().map_err(Error::file("sync", path))
}
