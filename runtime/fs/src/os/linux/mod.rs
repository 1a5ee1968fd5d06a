//! Linux.
//!
//! Its kernel refuses to leave a folder by itself (`openat2` with `RESOLVE_BENEATH`) and opens files without
//! effect (`O_PATH`). A guest's numbers are the host's: both have the same architecture.

mod content;
mod folder;
mod listing;
mod root;

use rustix::io::Errno;

pub(crate) use content::{allocate, append, copy, set_open_mode, sync};
pub(crate) use listing::Listing;
pub(crate) use root::{Found, Root, status};

/// The number that a guest knows an error by.
pub(crate) fn guest_errno(errno: Errno) -> i32 {
    errno.raw_os_error()
}
