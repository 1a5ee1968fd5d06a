//! Files of the host that machines use: devices, and this process's page map.
//!
//! A process that will lose its file system opens them ahead. From then on, machines use no path.

use std::fs::File;
use std::io;
use std::sync::OnceLock;

use crate::os::unix::threads::processors;

/// Makes descriptors that serve page faults, for users to whom an administrator allows it.
pub(super) static USERFAULT: DeviceFile = DeviceFile::read_write("/dev/userfaultfd");
/// This process's page map.
pub(super) static PAGE_MAP: DeviceFile = DeviceFile::read_only("/proc/self/pagemap");

/// A file of the host.
#[derive(Debug)]
pub(crate) struct DeviceFile {
    path: &'static str,
    is_written: bool,
    /// Set if it was opened ahead.
    ahead: OnceLock<File>,
}

impl DeviceFile {
    const fn read_only(path: &'static str) -> Self {
        Self { path, is_written: false, ahead: OnceLock::new() }
    }

    pub(crate) const fn read_write(path: &'static str) -> Self {
        Self { path, is_written: true, ahead: OnceLock::new() }
    }

    /// Opens it, or duplicates the descriptor that was opened ahead.
    ///
    /// # Errors
    /// It is missing, or this user may not open it.
    pub(crate) fn open(&self) -> io::Result<File> {
        match self.ahead.get() {
            Some(file) => file.try_clone(),
            None => File::options().read(true).write(self.is_written).open(self.path),
        }
    }

    /// Opens it for later. One that cannot be opened fails again where it is used.
    pub(crate) fn open_ahead(&self) {
        if let Ok(file) = self.open() {
            self.ahead.get_or_init(|| file);
        }
    }
}

/// Opens the files of this module ahead, and counts the processors, as that reads files too.
pub(crate) fn open_ahead() {
    USERFAULT.open_ahead();
    PAGE_MAP.open_ahead();
    processors();
}
