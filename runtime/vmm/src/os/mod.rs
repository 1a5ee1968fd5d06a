//! The operating system: the one place to edit for a port.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
mod unix;

#[cfg(target_os = "linux")]
pub use linux::*;
#[cfg(target_os = "macos")]
pub use macos::*;
pub(crate) use unix::mmap::{
    Populate, Protection, copy_range, is_same_page, map_over, map_private, reserve,
};
pub(crate) use unix::poll::wait_for_input;
pub use unix::readiness::{Interest, Readiness, Trigger};
pub use unix::sockets::{receive_now, send_now, shut_down};
pub use unix::threads::threads_for;
