//! A read-only disk that the guest sees as memory (virtio device 27).
//!
//! The machine maps the window; the device only says where it is.

mod device;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use self::device::Pmem;
pub(crate) use self::state::fresh_pmem;
