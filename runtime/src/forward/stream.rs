//! A stream from the app to a port of the guest.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::os;

/// A connection to a TCP port in the guest, from [`Vm::connect`](crate::Vm::connect). It behaves
/// like a [`TcpStream`](std::net::TcpStream), and uses no port of the host.
///
/// Reading fails with [`ConnectionReset`](io::ErrorKind::ConnectionReset) when the guest resets the
/// connection or exits. There is one exception: after this side has shut down sending with
/// [`GuestStream::shutdown`], a reset looks like end of file.
///
/// [`OwnedFd::from`] returns the socket, to wait for it with others.
#[derive(Debug)]
pub struct GuestStream {
    stream: UnixStream,
    /// Whether this side has shut down sending.
    has_ended: Arc<AtomicBool>,
}

impl GuestStream {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, has_ended: Arc::default() }
    }

    /// Shuts down sending, receiving, or both.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            // A plain flag: no other data depends on it.
            self.has_ended.store(true, Ordering::Relaxed);
        }
        self.stream.shutdown(how)
    }

    /// Another handle on the same connection.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { stream: self.stream.try_clone()?, has_ended: Arc::clone(&self.has_ended) })
    }

    /// Sets the timeout of reads; `None` waits forever.
    ///
    /// # Errors
    /// The time is zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    /// Sets the timeout of writes; `None` waits forever.
    ///
    /// # Errors
    /// The time is zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(timeout)
    }

    /// Sets whether reads and writes return at once.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(is_nonblocking)
    }
}

/// Distinguishes a reset from end of file after a read of `count` of `wanted` bytes, unless this
/// side has shut down sending.
pub(crate) fn told_apart(
    count: usize,
    wanted: usize,
    has_ended: bool,
    stream: &impl AsFd,
) -> io::Result<usize> {
    if count == 0 && wanted > 0 && !has_ended && os::is_hung_up(stream) {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(count)
}

impl Read for &GuestStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (&self.stream).read(buffer)?;
        told_apart(count, buffer.len(), self.has_ended.load(Ordering::Relaxed), &self.stream)
    }
}

impl Write for &GuestStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.stream).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for GuestStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for GuestStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for GuestStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsRawFd for GuestStream {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl From<GuestStream> for OwnedFd {
    fn from(stream: GuestStream) -> Self {
        stream.stream.into()
    }
}
