//! macOS. Type-checked, never run.
//!
//! It has no call that opens a file without effect. So what is found is not opened: it is a name in an open
//! folder, and what is opened by that name later is compared with what was found. Opening a file costs one
//! call more than on Linux, and using a folder two. As on Linux, no descriptor lasts longer than a request
//! but those of open files; a folder that is being read takes a second one.
//!
//! Paths are walked with `O_NOFOLLOW_ANY`, which refuses every link in them, and have no `..`. A folder whose
//! items are used must be readable, where Linux needs only the right to search.
//!
//! What macOS lacks, a guest is refused as its kernel expects: unnamed files, `fallocate` and
//! `copy_file_range` with `ENOSYS`, after which it asks no more, sockets with `EPERM`.

#[expect(unsafe_code, reason = "calls that no crate here has")]
mod calls;
mod content;
mod folder;
mod listing;
mod numbers;
mod root;

pub(crate) use content::{allocate, append, copy, set_open_mode, sync};
pub(crate) use listing::Listing;
pub(crate) use numbers::guest_errno;
pub(crate) use root::{Found, Root, status};
