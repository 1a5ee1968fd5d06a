//! Stream sockets between host and guest (virtio device 19), served in this process.
//!
//! Owns the guest's connections and the host ends that callers hold. The bytes on the wire are
//! in [`packet`], one connection's books in [`connection`], the device with its queues in
//! [`device`], the handle for the machine here, the thread that watches the host ends in
//! [`watch`].
//!
//! Who works: the guest's packets are handled on the vCPU thread that notified, [`Vsock::connect`]
//! and [`Vsock::send_control`] put packets before the guest on the caller's thread, and the one
//! thread `sm-vsock` acts only when a caller writes to its end, closes it, or reads too slowly.

mod connection;
mod device;
mod packet;
mod state;
#[cfg(test)]
mod tests;
mod watch;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, MutexGuard};

use self::device::Sockets;
pub(crate) use self::state::fresh_vsock;
use self::watch::{Watch, Watcher};
use super::mmio::{Mmio, Window};

/// A machine's socket device, for those who talk with the guest.
#[derive(Debug, Clone)]
pub struct Vsock {
    owner: Arc<Owner>,
}

/// Ends the watching thread when the last handle goes.
#[derive(Debug)]
struct Owner {
    device: Arc<Mmio<Sockets>>,
    watch: Arc<Watch>,
}

impl Vsock {
    fn new(device: Mmio<Sockets>, watch: Arc<Watch>) -> Self {
        let device = Arc::new(device);
        let watcher: Arc<dyn Watcher> = device.clone();
        watch.set_watcher(Arc::downgrade(&watcher));
        Self { owner: Arc::new(Owner { device, watch }) }
    }

    /// Connects to a port of the guest and sends it `first` right behind the request.
    ///
    /// The guest's answer is not awaited. If it refuses, or has ended, the stream just ends. Up to 64 KiB of
    /// `first` go out at once, as far as the guest has buffers; the rest follows by itself.
    ///
    /// # Errors
    /// `NotConnected` if no driver runs the device, `ResourceBusy` if there are too many
    /// connections, or what the host says when it has no sockets or threads left.
    pub fn connect(&self, guest_port: u32, first: &[u8]) -> io::Result<UnixStream> {
        let (ours, theirs) = device::pair()?;
        let _inside = self.owner.watch.enter();
        self.owner
            .device
            .serve(|device, queues| device.connect(guest_port, first, ours, queues))
            .unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()))?;
        // The guest has the request already: the thread's start costs it no time.
        self.owner.watch.start()?;
        Ok(theirs)
    }

    /// The host's end of the connection that the guest makes to the control port, once.
    ///
    /// If the guest has not connected yet, it is empty until then. It is there to be read; to
    /// send, use [`Vsock::send_control`].
    ///
    /// # Errors
    /// `NotConnected` if the end was taken before, or what the host says when it has no sockets
    /// left.
    pub(crate) fn control(&self) -> io::Result<UnixStream> {
        self.owner.device.with_device(Sockets::take_control)
    }

    /// Puts bytes into the control connection, before the guest's eyes if it has buffers.
    ///
    /// # Errors
    /// `NotConnected` if there is no control connection, or no driver.
    pub(crate) fn send_control(&self, bytes: &[u8]) -> io::Result<()> {
        let _inside = self.owner.watch.enter();
        self.owner
            .device
            .serve(|device, queues| device.send_control(bytes, queues))
            .unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()))
    }

    /// Holds the device still until the guard goes: no bytes pass from callers to the guest, and
    /// who wants to open a stream waits. The vCPUs must be paused. Streams stay as they are; the
    /// state tells the control connection, and which others the guest must be told are gone.
    ///
    /// # Errors
    /// `ResourceBusy` if something of the control connection is under way that the state does
    /// not tell: bytes that wait for the guest to make room, or for the caller to read.
    pub(crate) fn freeze(&self) -> io::Result<Frozen<'_>> {
        let held = self.hold();
        if self.owner.device.with_device(Sockets::is_quiet) {
            Ok(held)
        } else {
            Err(io::ErrorKind::ResourceBusy.into())
        }
    }

    /// The same, whatever is under way.
    pub(crate) fn hold(&self) -> Frozen<'_> {
        Frozen { _inside: self.owner.watch.enter() }
    }

    /// Whether [`Vsock::hang_up`] was called: streams end at once.
    #[must_use]
    pub fn has_hung_up(&self) -> bool {
        self.owner.device.with_device(|device| device.hung_up)
    }

    /// Ends every stream, the control connection too: the guest will not go on.
    pub(crate) fn hang_up(&self) {
        self.owner.device.with_device(Sockets::hang_up);
    }

    /// What the bus talks to.
    pub(super) fn window(&self) -> &dyn Window {
        &*self.owner.device
    }
}

/// A device that stands still.
#[derive(Debug)]
pub(crate) struct Frozen<'a> {
    _inside: MutexGuard<'a, ()>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.watch.stop();
    }
}
