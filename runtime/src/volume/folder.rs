//! The named volumes of a user: to list, make and remove them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::VolumeError;
use super::description::file_in;
use super::name::check_name;
use super::open::{create, lock};
use crate::paths;

/// A folder of named volumes.
///
/// ```no_run
/// use supermachine::{Volume, VolumeFolder};
///
/// # fn main() -> Result<(), supermachine::VolumeError> {
/// let volumes = VolumeFolder::open_default()?;
/// volumes.create("db", Volume::DEFAULT_SIZE)?;
/// for volume in volumes.list()? {
///     println!("{}: {} of {} bytes", volume.name, volume.used, volume.size);
/// }
/// volumes.remove("db")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFolder {
    path: PathBuf,
}

/// A named volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// The size of its disk in bytes.
    pub size: u64,
    /// The bytes that it takes on the host.
    pub used: u64,
    /// When it was made; `None` where the host's file system does not say.
    pub created: Option<SystemTime>,
    /// Whether a machine has it.
    pub is_in_use: bool,
}

impl VolumeFolder {
    /// The user's folder, where [`Volume::named`](super::Volume::named) volumes are.
    ///
    /// # Errors
    /// Neither `HOME` nor `XDG_DATA_HOME` is set to an absolute path.
    pub fn open_default() -> Result<Self, VolumeError> {
        let path = paths::data_dir().ok_or(VolumeError::NoFolder)?.join("volumes");
        Ok(Self { path })
    }

    /// The folder at `path`, which is made with the first volume.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes an empty volume of `size` bytes. Returns whether there was none: an existing one stays as it
    /// is.
    ///
    /// # Errors
    /// The name or size is invalid, or the file cannot be written.
    pub fn create(&self, name: &str, size: u64) -> Result<bool, VolumeError> {
        check_name(name)?;
        fs::create_dir_all(&self.path).map_err(VolumeError::file("create", &self.path))?;
        create(&file_in(&self.path, name), size)
    }

    /// Its volumes, by name.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<VolumeInfo>, VolumeError> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(VolumeError::file("read", &self.path)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(VolumeError::file("read", &self.path))?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".ext4"));
            names.extend(name.filter(|name| check_name(name).is_ok()).map(str::to_owned));
        }
        names.sort();
        let mut volumes = Vec::with_capacity(names.len());
        for name in names {
            match self.get(&name) {
                Ok(volume) => volumes.push(volume),
                // Removed meanwhile.
                Err(VolumeError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(volumes)
    }

    /// The volume of this name.
    ///
    /// # Errors
    /// [`VolumeError::Missing`] if there is none; the name is invalid, or its file cannot be read.
    pub fn get(&self, name: &str) -> Result<VolumeInfo, VolumeError> {
        check_name(name)?;
        let path = file_in(&self.path, name);
        let file = self.file(name, &path)?;
        let status = file.metadata().map_err(VolumeError::file("read", &path))?;
        let is_in_use = match lock(&file, &path, name, true) {
            Err(VolumeError::InUse { .. }) => true,
            locked => locked.map(|()| false)?,
        };
        Ok(VolumeInfo {
            name: name.to_owned(),
            size: status.len(),
            used: status.blocks() * 512,
            created: status.created().ok(),
            path,
            is_in_use,
        })
    }

    /// Removes a volume with all that is on it.
    ///
    /// # Errors
    /// [`VolumeError::Missing`] if there is none, [`VolumeError::InUse`] if a machine has it; the name is
    /// invalid, or the file cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), VolumeError> {
        check_name(name)?;
        let path = file_in(&self.path, name);
        let file = self.file(name, &path)?;
        // A machine that opens it meanwhile finds it removed once it has the lock.
        lock(&file, &path, name, true)?;
        fs::remove_file(&path).map_err(VolumeError::file("remove", &path))
    }

    fn file(&self, name: &str, path: &Path) -> Result<fs::File, VolumeError> {
        fs::File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => VolumeError::Missing { name: name.to_owned() },
            _ => VolumeError::file("open", path)(error),
        })
    }
}
