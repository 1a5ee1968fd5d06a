//! A source of random bytes (virtio device 4).

mod device;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use self::device::Rng;
pub(crate) use self::state::fresh_rng;
