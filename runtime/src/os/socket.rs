//! Socket calls that the standard library lacks.
//!
//! Each function is safe to call with any argument. None blocks, and none raises a signal.

use std::ffi::c_int;
use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::address::Name;
use super::calls::{check, set};
use super::system;

pub(crate) use supermachine_vmm::{receive_now as receive, send_now as send};

/// The backlog of listeners; the kernel's limit is often lower.
const BACKLOG: c_int = 4096;
/// The longest path of a socket file, including its zero byte.
const MAX_ADDRESS: usize = size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path);
/// The mode of a socket file: only its owner may connect.
const SOCKET_MODE: libc::mode_t = 0o600;

/// Shuts down sending.
pub(crate) fn shut_down_sending(socket: &impl AsFd) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::shutdown(socket.as_fd().as_raw_fd(), libc::SHUT_WR) })
}

/// Makes a TCP connection reset when its socket is closed.
pub(crate) fn reset_on_close(socket: &impl AsFd) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    set(socket, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

/// Disables Nagle's algorithm.
pub(crate) fn send_at_once(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1_i32)
}

/// Whether the peer has closed its end, and not only one direction. A socket of which this side has
/// shut down both directions looks the same.
pub(crate) fn is_hung_up(socket: &impl AsFd) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_fd().as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one poll structure.
    let count = unsafe { libc::poll(&raw mut poll, 1, 0) };
    count == 1 && poll.revents & (libc::POLLHUP | libc::POLLERR) != 0
}

/// Raises the backlog above the standard library's.
pub(crate) fn widen_backlog(listener: &impl AsFd) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::listen(listener.as_fd().as_raw_fd(), BACKLOG) })
}

/// The result of a connection that was started.
pub(crate) fn outcome(socket: &impl AsFd) -> io::Result<()> {
    let mut error: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    let place = (&raw mut error).cast();
    // SAFETY: the kernel writes at most `length` bytes to `error`, which has as many.
    check(unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, place, &raw mut length)
    })?;
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Starts to connect to an address. The socket becomes writable once it has connected or failed;
/// [`outcome`] returns which.
pub(crate) fn connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = system::stream_socket(family)?;
    let (name, length) = Name::of(address);
    // SAFETY: pointer and length describe a part of `name`.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const name).cast(), length) };
    match check(result) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Listens on a new socket file to which only its owner can connect, from its creation on.
pub(crate) fn listen_on_file(path: &Path) -> io::Result<UnixListener> {
    // SAFETY: zeros are valid in every field.
    let mut name: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    name.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= name.sun_path.len() || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    for (place, byte) in name.sun_path.iter_mut().zip(bytes) {
        *place = libc::c_char::from_ne_bytes([*byte]);
    }
    let socket = system::stream_socket(libc::AF_UNIX)?;
    system::bind_private(&socket, (&name, path), SOCKET_MODE)?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(socket.into())
}

/// Uses a socket file by a path that fits into an address, if its own does not.
pub(crate) fn with_short_path<T>(
    path: &Path,
    act: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return act(path) };
    if path.as_os_str().len() < MAX_ADDRESS {
        return act(path);
    }
    system::with_short_folder(folder, |folder| act(&folder.join(name)))
}
