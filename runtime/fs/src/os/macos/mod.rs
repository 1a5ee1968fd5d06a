//! macOS. Type-checked, never run.
//!
//! It has no call that opens a file without effect, so that what is found is not opened but remembered: a
//! folder's descriptor and a name in it. That costs two calls more for each request, and what is opened is
//! compared with what was found. Paths are walked with `O_NOFOLLOW_ANY`, which refuses every link in them; no
//! name of a path is `..`. A folder on the way, and what is looked into, must be readable, where Linux needs
//! only the right to search.
//!
//! What macOS lacks, a guest is refused as its kernel expects: unnamed files, `fallocate` and
//! `copy_file_range` with `ENOSYS`, after which it asks no more, sockets and pipes with `EPERM`.

mod content;
mod folder;
mod listing;
mod numbers;
mod root;

pub(crate) use content::{allocate, append, copy, set_open_mode, sync};
pub(crate) use listing::Listing;
pub(crate) use numbers::guest_errno;
pub(crate) use root::{Found, Root, status};
