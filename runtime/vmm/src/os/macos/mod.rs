//! macOS.
//!
//! Differs from Linux in what it lacks. Without `userfaultfd`, snapshots are expanded before they
//! start. Without a way to drop single pages from under a hypervisor, a reset copies every written
//! page. Without sealed files, pages from another process are copied rather than mapped.

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

pub use super::unix::waker::Waker;
pub(crate) use device_file::{DeviceFile, open_ahead};
pub use events::Poller;
pub(crate) use holes::{punch_hole, zero_range};
pub(crate) use page_buffer::PageBuffer;
pub(crate) use page_map::PageMap;
pub(crate) use pages::{discard, populate};
pub use random::fill_random;
pub use reserve::reserve_mapped;
pub(crate) use sealed::{memory_file, seal};
pub(crate) use thread_time::thread_cpu_time;
pub(crate) use userfault::Userfault;
