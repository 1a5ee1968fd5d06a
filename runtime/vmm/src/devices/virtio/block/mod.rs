//! A read-only disk behind a request queue (virtio device 2).

mod device;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use self::device::Block;
pub(crate) use self::state::fresh_block;
