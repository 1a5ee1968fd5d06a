//! Linux.

mod device_file;
mod events;
mod holes;
mod mmap;
mod page_map;
mod random;
mod reserve;
mod sealed;
mod sockets;
mod threads;
mod userfault;

pub(crate) use device_file::{DeviceFile, open_ahead};
pub(crate) use events::{Interest, Poller, Readiness, Waker, wait_for_input};
pub(crate) use holes::{punch_hole, zero_range};
pub(crate) use mmap::{
    PageBuffer, Populate, Protection, drop_pages, is_same_page, map_over, map_private, populate,
    reserve,
};
pub(crate) use page_map::PageMap;
#[cfg(test)]
pub(crate) use page_map::{is_written, pages_in};
pub use random::fill_random;
pub use reserve::reserve_mapped;
pub(crate) use sealed::{memory_file, seal};
pub use sockets::{receive_now, send_now, shut_down};
pub(crate) use threads::thread_cpu_time;
pub use threads::threads_for;
pub(crate) use userfault::Userfault;
