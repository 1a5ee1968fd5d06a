//! Socket files: names for sockets that only this process's user may connect to.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::socket::{listen_on_file, with_short_path};

/// A socket file with a listener, for its owner only. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
    made: Metadata,
}

impl SocketFile {
    /// Creates the file. Replaces an abandoned socket file.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let listener = match with_short_path(path, listen_on_file) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && is_abandoned(path) => {
                fs::remove_file(path)?;
                with_short_path(path, listen_on_file)?
            }
            result => result?,
        };
        let made = fs::symlink_metadata(path)?;
        Ok(Self { listener, path: path.to_owned(), made })
    }

    /// The non-blocking listener.
    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Whether the file is still in place.
    pub(crate) fn is_in_place(&self) -> bool {
        let identity = |file: &Metadata| (file.dev(), file.ino());
        fs::symlink_metadata(&self.path).is_ok_and(|file| identity(&file) == identity(&self.made))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_in_place() {
            // Without rights to the folder, the file stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether a path is a socket file without a listener.
fn is_abandoned(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let answer = with_short_path(path, |path| UnixStream::connect(path));
    is_socket && answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}
