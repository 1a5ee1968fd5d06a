//! The operating system: the one place to edit for a port.
//!
//! A [`Root`] leads to what is in the shared folder: a [`Found`], which is not opened for use yet and which no
//! link of the host can stand for. A [`Folder`] is one whose names are used. Above this module no system is
//! named, and a guest's numbers (of errors, flags and kinds) are Linux's.

#[cfg(any(target_os = "macos", test))]
mod darwin_errno;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
mod status;
mod unix;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;

pub(crate) use status::{FILE_TYPE, FOLDER, FileId, PIPE, REGULAR, SOCKET, Sizes, Status};
pub(crate) use system::{
    Found, Listing, Root, allocate, append, copy, guest_errno, set_open_mode, status, sync,
};
pub(crate) use unix::folder::Folder;
pub(crate) use unix::item::Item;
