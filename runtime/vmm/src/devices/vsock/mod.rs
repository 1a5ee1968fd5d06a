//! Stream sockets between host and guest (virtio device 19), served in this process.
//!
//! Owns the guest's connections and the host ends that callers hold. [`packet`] is the wire format,
//! [`connection`] one stream's state, [`receive`] the way into the guest's buffers, [`device`] the
//! device with its queues, and [`streams`] the handle for the machine and its users.
//!
//! Threads: the vCPU thread that notified handles the guest's packets. [`Streams::connect`] and
//! [`Streams::send_control`] hand packets to the guest on the caller's thread. The machine's event
//! loop acts only when a caller writes to its end, closes it, or makes room in it.

mod connection;
mod device;
mod packet;
mod receive;
mod state;
mod streams;
#[cfg(test)]
mod tests;

pub(crate) use device::Sockets;
pub(crate) use state::fresh_vsock;
pub use streams::Streams;
