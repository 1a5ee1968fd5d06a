//! Calls that no crate here has. The only `unsafe` code of the crate.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::mem::transmute;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// Both the disk's own memory and what the file system keeps are written.
const FULLY: c_int = 1;
/// The call returns when that is done.
const WAITING: c_int = 2;

type MakePipe = unsafe extern "C" fn(c_int, *const c_char, libc::mode_t) -> c_int;

unsafe extern "C" {
    /// Takes two numbers and reaches no memory.
    safe fn fsync_volume_np(file: c_int, flags: c_int) -> c_int;
}

/// Writes the file system that has a file to its disk, and waits for it.
pub(super) fn sync_volume(file: &impl AsFd) -> Result<(), Errno> {
    check(fsync_volume_np(file.as_fd().as_raw_fd(), FULLY | WAITING))
}

/// Makes a pipe in a folder. The function is looked up by name, as programs that name it do not start on
/// macOS 12 and older. A path would do there, but a guest can replace a part of it by a link meanwhile.
///
/// # Errors
/// `EPERM` if this macOS lacks it.
pub(super) fn make_pipe(folder: &impl AsFd, name: &CStr, mode: u16) -> Result<(), Errno> {
    // SAFETY: the first argument is no handle that could be closed, and the name ends with a zero.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"mkfifoat".as_ptr()) };
    if found.is_null() {
        return Err(Errno::PERM);
    }
    // SAFETY: it is not null, and the system's function of that name has this signature.
    let make = unsafe { transmute::<*mut c_void, MakePipe>(found) };
    // SAFETY: it reads a string that ends with a zero, which a `CStr` does.
    check(unsafe { make(folder.as_fd().as_raw_fd(), name.as_ptr(), mode) })
}

/// The error of a call, if its result says so.
fn check(result: c_int) -> Result<(), Errno> {
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}
