//! Calls about sockets that every system has.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;

/// Sets an option.
pub(super) fn set<T>(socket: &impl AsFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`.
    check(unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(value).cast(), length) })
}

/// Binds a socket to a socket file.
pub(super) fn bind(socket: &OwnedFd, name: &libc::sockaddr_un) -> io::Result<()> {
    let length = size_of_val(name) as libc::socklen_t;
    // SAFETY: pointer and length describe `name`.
    check(unsafe { libc::bind(socket.as_raw_fd(), ptr::from_ref(name).cast(), length) })
}

/// The error of a call, if its result says so.
pub(super) fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
