//! Listeners of the host: TCP addresses and socket files.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use supermachine_formats::wire::Request;

use super::relay::{Arrival, Source};
use super::sys::{self, with_short_path};

/// Connections to an address, for a port of the guest.
#[derive(Debug)]
pub(super) struct Tcp {
    listener: TcpListener,
    guest_port: u16,
}

impl Tcp {
    pub(super) fn bind(address: SocketAddr, guest_port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        sys::widen_backlog(&listener)?;
        Ok(Self { listener, guest_port })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Source for Tcp {
    fn descriptor(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    fn next(&mut self) -> io::Result<Arrival> {
        let (client, _) = self.listener.accept()?;
        // Only slower without.
        let _ = client.set_nodelay(true);
        Ok(arrival(client.into(), self.guest_port))
    }
}

/// A socket file that is listened on, its owner's alone. The file goes with it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
    made: Metadata,
}

impl SocketFile {
    /// Makes the file. One that is there, and that nobody listens on any more, is replaced.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let listener = match with_short_path(path, sys::listen_on_file) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && is_abandoned(path) => {
                fs::remove_file(path)?;
                with_short_path(path, sys::listen_on_file)?
            }
            result => result?,
        };
        let made = fs::symlink_metadata(path)?;
        Ok(Self { listener, path: path.to_owned(), made })
    }

    /// What listens; it never waits.
    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Whether the file is where it was made.
    pub(crate) fn is_in_place(&self) -> bool {
        let identity = |file: &Metadata| (file.dev(), file.ino());
        fs::symlink_metadata(&self.path).is_ok_and(|file| identity(&file) == identity(&self.made))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_in_place() {
            // Who took the folder's rights away meanwhile keeps the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Connections to a socket file, for a port of the guest.
#[derive(Debug)]
pub(super) struct File {
    socket: SocketFile,
    guest_port: u16,
}

impl File {
    pub(super) fn bind(path: &Path, guest_port: u16) -> io::Result<Self> {
        Ok(Self { socket: SocketFile::bind(path)?, guest_port })
    }
}

impl Source for File {
    fn descriptor(&self) -> RawFd {
        self.socket.listener.as_raw_fd()
    }

    fn next(&mut self) -> io::Result<Arrival> {
        let (client, _) = self.socket.listener.accept()?;
        Ok(arrival(client.into(), self.guest_port))
    }
}

/// Whether a path is a socket file that nobody listens on.
fn is_abandoned(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let answer = with_short_path(path, |path| UnixStream::connect(path));
    is_socket && answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn arrival(client: std::os::fd::OwnedFd, port: u16) -> Arrival {
    let request = Request::Connect { port, framed: true };
    Arrival { client: Some(client), request, is_connecting: false }
}
