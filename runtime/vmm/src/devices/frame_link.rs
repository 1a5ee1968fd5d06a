//! The cable between a network interface and what is behind it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

/// One end of a link that carries Ethernet frames, one in each datagram.
///
/// The other end may be in another process. Frames from the guest may lack the checksums of TCP and
/// UDP; the guest trusts those of the frames that it gets. A link that is full holds back the guest.
#[derive(Debug, Clone)]
pub struct FrameLink(Arc<UnixDatagram>);

impl FrameLink {
    /// A link over a connected socket.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking.
    pub fn new(socket: UnixDatagram) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self(Arc::new(socket)))
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if the link is full, another if nothing is behind it.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame).map(drop)
    }

    /// Receives a frame, which is cut off after `buffer`.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is none.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer)
    }
}

impl AsFd for FrameLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for FrameLink {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
