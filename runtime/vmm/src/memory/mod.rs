//! Guest memory: RAM, the pages that a guest wrote, and pages that arrive on demand.

mod dirty;
mod layer;
mod pager;
mod ram;
mod rollback;
#[cfg(test)]
pub(crate) mod testing;
mod touched;

pub use dirty::DirtyPages;
pub use pager::{ChunkAddress, Chunks};
pub(crate) use pager::{MappedRange, Pager};
pub(crate) use ram::{GuestMemory, Ram, map_disk, reserve_disk};
pub use ram::{MemoryFiles, Overlay, RamWindow};
pub(crate) use rollback::{SparePages, roll_back};
pub use touched::ReadRecorder;
pub(crate) use touched::touched;
