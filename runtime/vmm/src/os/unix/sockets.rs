//! Calls on a stream that other threads may be blocked on.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Receives the bytes that a stream has now, or fails with `WouldBlock`. Unlike the stream's own
/// nonblocking mode, this leaves other threads free to block on it.
pub fn receive_now(stream: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let fd = stream.as_fd().as_raw_fd();
    let start = buffer.as_mut_ptr().cast();
    // SAFETY: pointer and length describe `buffer`, which is writable.
    let count = unsafe { libc::recv(fd, start, buffer.len(), libc::MSG_DONTWAIT) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Sends as many bytes as a stream has room for now, or fails with `WouldBlock`. Raises no signal.
pub fn send_now(stream: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let fd = stream.as_fd().as_raw_fd();
    let how = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length describe `bytes`.
    let count = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), how) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Shuts down both directions of a stream.
pub fn shut_down(stream: &impl AsFd) -> io::Result<()> {
    // SAFETY: no memory is involved.
    match unsafe { libc::shutdown(stream.as_fd().as_raw_fd(), libc::SHUT_RDWR) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
