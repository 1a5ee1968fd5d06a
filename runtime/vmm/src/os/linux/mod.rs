//! Linux.

mod device_file;
mod events;
mod holes;
mod page_buffer;
mod page_map;
mod pages;
mod random;
mod reserve;
mod sealed;
mod thread_time;
mod userfault;

pub(crate) use device_file::{DeviceFile, open_ahead};
pub use events::{Poller, Waker};
pub(crate) use holes::{punch_hole, zero_range};
pub(crate) use page_buffer::PageBuffer;
pub(crate) use page_map::PageMap;
pub(crate) use pages::{discard, populate};
pub use random::fill_random;
pub use reserve::reserve_mapped;
pub(crate) use sealed::{memory_file, seal};
pub(crate) use thread_time::thread_cpu_time;
pub(crate) use userfault::Userfault;
