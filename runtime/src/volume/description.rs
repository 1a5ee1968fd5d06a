//! What a program says of a volume.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::VolumeError;
use super::limits::{DEFAULT_SIZE, MIN_SIZE};
use super::name::check_name;
use super::open::{checked_size, open, unnamed};
use crate::paths;

/// A disk with an ext4 file system that a machine mounts, and that outlives the machine unless it is
/// [`scratch`](Self::scratch).
///
/// This is a description: [`VmConfig::with_volume`](crate::VmConfig::with_volume) gives it to machines, and the
/// disk is made at the first start. It is a sparse file, which takes the room that the files on it take.
///
/// ```
/// use supermachine::{Volume, VmConfig};
///
/// let config = VmConfig::new()
///     .with_volume(Volume::named("db").with_size(20 << 30), "/var/lib/postgresql/data")
///     .with_volume(Volume::at("./models.ext4").read_only(), "/models")
///     .with_disk("/scratch", 4 << 30);
/// assert_eq!(config.volumes().len(), 3);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    place: Place,
    size: u64,
    is_read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// In the user's folder of volumes.
    Named(String),
    /// A file.
    At(PathBuf),
    /// A file without a name.
    Scratch,
}

impl Volume {
    /// The least size in bytes.
    pub const MIN_SIZE: u64 = MIN_SIZE;
    /// The size in bytes for which none is named.
    pub const DEFAULT_SIZE: u64 = DEFAULT_SIZE;

    /// The volume of this name, in `$XDG_DATA_HOME/supermachine/volumes` or
    /// `~/.local/share/supermachine/volumes`.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self::new(Place::Named(name.into()), DEFAULT_SIZE)
    }

    /// The volume in the file `path`.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self::new(Place::At(path.into()), DEFAULT_SIZE)
    }

    /// A disk of `size` bytes that is empty for each machine and gone with it. A pool's machine gets an
    /// empty one when it returns.
    #[must_use]
    pub fn scratch(size: u64) -> Self {
        Self::new(Place::Scratch, size)
    }

    fn new(place: Place, size: u64) -> Self {
        Self { place, size, is_read_only: false }
    }

    /// Makes the disk with `size` bytes, if it is missing: 64 MiB to 16 TiB; the default is 8 GiB. An
    /// existing one keeps its size.
    #[must_use]
    pub fn with_size(mut self, size: u64) -> Self {
        self.size = size;
        self
    }

    /// The guest changes nothing on it. Several machines may read a volume at once, while none writes.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.is_read_only = true;
        self
    }

    /// Its size in bytes, if it is made.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the guest may only read.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Its name, or its path; `None` for a scratch disk.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        match &self.place {
            Place::Named(name) => Some(name.clone()),
            Place::At(path) => Some(path.display().to_string()),
            Place::Scratch => None,
        }
    }

    /// What snapshots and errors in the guest call it: its name, or that of its file without the folder.
    /// Empty for a scratch disk.
    pub(crate) fn label(&self) -> String {
        match &self.place {
            Place::Named(name) => name.clone(),
            Place::At(path) => {
                let name = path.file_name().unwrap_or(path.as_os_str());
                name.to_string_lossy().into_owned()
            }
            Place::Scratch => String::new(),
        }
    }

    /// Checks what can be checked before a start, and that no machine has it now.
    ///
    /// # Errors
    /// Its name or size is invalid, its file cannot be used, or a machine has it.
    pub fn check(&self) -> Result<(), VolumeError> {
        checked_size(self.size)?;
        match self.file()? {
            Some(path) if path.exists() => self.open().map(drop),
            _ => Ok(()),
        }
    }

    /// Opens and locks its file, which is made if it is missing. Returns it with its size.
    pub(crate) fn open(&self) -> Result<(File, u64), VolumeError> {
        let name = self.name().unwrap_or_default();
        match self.file()? {
            Some(path) => {
                if let (Place::Named(_), Some(folder)) = (&self.place, path.parent()) {
                    let made = std::fs::create_dir_all(folder);
                    made.map_err(VolumeError::file("create", folder))?;
                }
                open(&path, &name, self.size, self.is_read_only)
            }
            None => {
                let folder = paths::cache_dir().ok_or(VolumeError::NoFolder)?.join("scratch");
                Ok((unnamed(&folder, self.size)?, checked_size(self.size)?))
            }
        }
    }

    fn file(&self) -> Result<Option<PathBuf>, VolumeError> {
        match &self.place {
            Place::Named(name) => {
                check_name(name)?;
                let folder = paths::data_dir().ok_or(VolumeError::NoFolder)?;
                Ok(Some(file_in(&folder.join("volumes"), name)))
            }
            Place::At(path) => Ok(Some(path.clone())),
            Place::Scratch => Ok(None),
        }
    }
}

/// The file of a named volume.
pub(super) fn file_in(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.ext4"))
}
