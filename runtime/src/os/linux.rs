//! What only Linux has.

use std::ffi::c_int;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::calls::{bind, check};

/// How to receive: descriptors that come along get close-on-exec.
pub(super) const RECEIVE_FLAGS: c_int = libc::MSG_CMSG_CLOEXEC;

/// A new socket that does not block and closes in programs that this process starts.
pub(super) fn stream_socket(family: c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(family, kind, 0) };
    check(fd)?;
    // SAFETY: the kernel just made this descriptor, and no other code knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds a socket to a new file, to which only its owner can ever connect.
pub(super) fn bind_private(
    socket: &OwnedFd,
    (name, _): (&libc::sockaddr_un, &Path),
    mode: libc::mode_t,
) -> io::Result<()> {
    // The file gets the mode of its socket. SAFETY: no memory is involved.
    check(unsafe { libc::fchmod(socket.as_raw_fd(), mode) })?;
    bind(socket, name)
}

/// Uses a folder by a short path, which is valid only meanwhile.
pub(super) fn with_short_folder<T>(
    folder: &Path,
    act: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let how = libc::O_PATH | libc::O_DIRECTORY;
    let folder = OpenOptions::new().read(true).custom_flags(how).open(folder)?;
    act(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()))
}

/// The kernel has done it, see [`RECEIVE_FLAGS`].
#[expect(clippy::unnecessary_wraps, reason = "other systems have to")]
pub(super) fn close_on_exec(_: &OwnedFd) -> io::Result<()> {
    Ok(())
}

/// Process and user at the other end, when the connection was made.
pub(super) fn peer_ids(socket: &UnixStream) -> io::Result<(u32, u32)> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let place = (&raw mut found).cast();
    // SAFETY: the kernel writes at most `length` bytes to `found`, which has as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            place,
            &raw mut length,
        )
    };
    check(result)?;
    Ok((found.pid.unsigned_abs(), found.uid))
}

/// Closes all descriptors but those for standard input, output and error.
///
/// # Safety
/// No other code of the process owns a descriptor.
pub(crate) unsafe fn close_inherited() {
    // SAFETY: the caller promises that no code owns one. A kernel without the call leaves them
    // open, which the process can do no harm with.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Makes all descriptors but standard input, output and error close in programs that this process
/// starts. It closes none of them here.
///
/// For a process that starts a long-lived one, which would otherwise keep descriptors open by
/// accident, such as the end of a pipe that another process waits for.
///
/// # Errors
/// The kernel is older than Linux 5.11.
pub fn inherit_nothing() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: it sets a flag of descriptors, and no owner of one relies on its absence.
    check(unsafe { libc::close_range(3, libc::c_uint::MAX, flags) })
}
