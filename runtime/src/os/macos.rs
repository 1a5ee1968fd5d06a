//! What macOS has instead.

use std::ffi::c_int;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;

use supermachine_vmm::fill_random;

use super::calls::{bind, check, set};

/// How to receive.
pub(super) const RECEIVE_FLAGS: c_int = 0;
/// This process's descriptors.
const DESCRIPTORS: &str = "/dev/fd";

/// A new socket that does not block, raises no signal, and closes in programs that this process
/// starts. One that starts at the very moment may inherit it.
pub(super) fn stream_socket(family: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM, 0) };
    check(fd)?;
    // SAFETY: the kernel just made this descriptor, and no other code knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    close_on_exec(&socket)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_NOSIGPIPE, &1_i32)?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok(socket)
}

/// Binds a socket to a new file, to which only its owner can ever connect: no one can before it
/// listens.
pub(super) fn bind_private(
    socket: &OwnedFd,
    (name, path): (&libc::sockaddr_un, &Path),
    mode: libc::mode_t,
) -> io::Result<()> {
    bind(socket, name)?;
    let private = fs::set_permissions(path, Permissions::from_mode(mode.into()));
    if private.is_err() {
        // The reason is in the error; a file that cannot be removed is no socket of anyone.
        let _ = fs::remove_file(path);
    }
    private
}

/// Uses a folder by a short path, a symbolic link in the folder for temporary files.
pub(super) fn with_short_folder<T>(
    folder: &Path,
    act: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let mut number = [0; 4];
    fill_random(&mut number).map_err(io::Error::other)?;
    let link = std::env::temp_dir().join(format!("sm-{:08x}", u32::from_ne_bytes(number)));
    symlink(folder.canonicalize()?, &link)?;
    let result = act(&link);
    // A link that stays does no harm.
    let _ = fs::remove_file(&link);
    result
}

/// Makes a descriptor close in programs that this process starts.
pub(super) fn close_on_exec(descriptor: &OwnedFd) -> io::Result<()> {
    set_close_on_exec(descriptor.as_raw_fd())
}

fn set_close_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: it sets a flag, and no owner of a descriptor relies on its absence.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })
}

/// Process and user at the other end, when the connection was made.
pub(super) fn peer_ids(socket: &UnixStream) -> io::Result<(u32, u32)> {
    let (mut uid, mut gid) = (u32::MAX, u32::MAX);
    // SAFETY: the kernel writes one id to each.
    check(unsafe { libc::getpeereid(socket.as_raw_fd(), &raw mut uid, &raw mut gid) })?;
    let mut pid: libc::pid_t = 0;
    let mut length = size_of::<libc::pid_t>() as libc::socklen_t;
    let place = (&raw mut pid).cast();
    // SAFETY: the kernel writes at most `length` bytes to `pid`, which has as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_LOCAL,
            libc::LOCAL_PEERPID,
            place,
            &raw mut length,
        )
    };
    check(result)?;
    Ok((pid.unsigned_abs(), uid))
}

/// Closes all descriptors but those for standard input, output and error.
///
/// # Safety
/// No other code of the process owns a descriptor.
pub(crate) unsafe fn close_inherited() {
    for fd in inherited().unwrap_or_default() {
        // SAFETY: the caller promises that no code owns one. The one that listed them is closed
        // already, which fails and is harmless.
        unsafe { libc::close(fd) };
    }
}

/// Makes all descriptors but standard input, output and error close in programs that this process
/// starts. It closes none of them here.
///
/// For a process that starts a long-lived one, which would otherwise keep descriptors open by
/// accident, such as the end of a pipe that another process waits for.
///
/// # Errors
/// The descriptors cannot be listed.
pub fn inherit_nothing() -> io::Result<()> {
    for fd in inherited()? {
        match set_close_on_exec(fd) {
            // Another thread has closed it, or it was the one that listed them.
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            result => result?,
        }
    }
    Ok(())
}

fn inherited() -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(DESCRIPTORS)? {
        let fd = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(fd.filter(|fd: &RawFd| *fd > libc::STDERR_FILENO));
    }
    Ok(found)
}
