//! A folder of the host (virtio device 26): FUSE requests on one queue, and on another those that want no
//! answer.
//!
//! Moves messages between the driver's buffers and a [`FileServer`](super::FileServer), and knows nothing of
//! what is in them.

mod device;
#[cfg(test)]
mod tests;

pub(crate) use device::{Share, fresh_share};
