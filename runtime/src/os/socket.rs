//! Socket calls that the standard library lacks.
//!
//! Each function is safe to call with any argument. None blocks, and none raises a signal.

use std::ffi::c_int;
use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::ptr;

pub(crate) use supermachine_vmm::{receive_now as receive, send_now as send};

/// The backlog of listeners; the kernel's limit is often lower.
const BACKLOG: c_int = 4096;
/// The longest path of a socket file, including its zero byte.
const MAX_ADDRESS: usize = 108;
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
    let socket = stream_socket(family, libc::SOCK_NONBLOCK)?;
    let fd = socket.as_raw_fd();
    let result = match address {
        SocketAddr::V4(address) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            let length = size_of_val(&name) as libc::socklen_t;
            // SAFETY: pointer and length describe `name`.
            unsafe { libc::connect(fd, (&raw const name).cast(), length) }
        }
        SocketAddr::V6(address) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            let length = size_of_val(&name) as libc::socklen_t;
            // SAFETY: pointer and length describe `name`.
            unsafe { libc::connect(fd, (&raw const name).cast(), length) }
        }
    };
    match check(result) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Listens on a new socket file to which only its owner can connect, from its creation on.
pub(crate) fn listen_on_file(path: &Path) -> io::Result<UnixListener> {
    let mut name = libc::sockaddr_un {
        sun_family: libc::AF_UNIX as libc::sa_family_t,
        sun_path: [0; MAX_ADDRESS],
    };
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= name.sun_path.len() || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    for (place, byte) in name.sun_path.iter_mut().zip(bytes) {
        *place = libc::c_char::from_ne_bytes([*byte]);
    }
    let socket = stream_socket(libc::AF_UNIX, libc::SOCK_NONBLOCK)?;
    let fd = socket.as_raw_fd();
    // The file gets the mode of its socket. SAFETY: no memory is involved.
    check(unsafe { libc::fchmod(fd, SOCKET_MODE) })?;
    let length = size_of_val(&name) as libc::socklen_t;
    // SAFETY: pointer and length describe `name`.
    check(unsafe { libc::bind(fd, (&raw const name).cast(), length) })?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::listen(fd, BACKLOG) })?;
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
    let how = libc::O_PATH | libc::O_DIRECTORY;
    let folder = OpenOptions::new().read(true).custom_flags(how).open(folder)?;
    // Stays valid while the folder is open.
    act(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

fn stream_socket(family: c_int, flags: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, 0) };
    check(fd)?;
    // SAFETY: the kernel just made this descriptor, and no other code knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn set<T>(socket: &impl AsFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`.
    check(unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(value).cast(), length) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
