//! What all Unix systems have.

pub(super) mod mmap;
pub(super) mod page_state;
pub(super) mod poll;
pub(super) mod readiness;
pub(super) mod sockets;
pub(super) mod threads;
#[cfg(any(target_os = "macos", test))]
#[cfg_attr(not(target_os = "macos"), expect(unreachable_pub, reason = "only tested here"))]
pub(super) mod waker;
