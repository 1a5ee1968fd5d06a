//! The handle of a machine's socket device, for code that talks with the guest.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::device::{Sockets, pair};
use crate::devices::event_loop::EventLoop;
use crate::devices::mmio::{Mmio, Slot, Window};

/// Opens streams to a guest. A handle also works while its machine is dropped.
#[derive(Debug, Clone)]
pub struct Streams {
    device: Arc<Mmio<Sockets>>,
    /// Serves the streams' host ends until the last handle is dropped.
    events: Arc<EventLoop>,
}

impl Streams {
    /// The handle of a slot's socket device; `None` if the slot holds another device.
    pub(crate) fn of(slot: &Slot, events: &Arc<EventLoop>) -> Option<Self> {
        let device = Arc::clone(slot).into_any().downcast().ok()?;
        Some(Self { device, events: Arc::clone(events) })
    }

    /// Connects to a port of the guest, and sends it `first` right behind the request.
    ///
    /// Returns without waiting for the guest's answer. If the guest refuses, or has stopped, the
    /// stream reads end of file. Up to 64 KiB of `first` go out at once, as far as the guest has
    /// buffers; the rest follows by itself.
    ///
    /// # Errors
    /// `NotConnected` if no driver runs the device, `ResourceBusy` if there are too many
    /// connections, or the host's error if it has no sockets or threads left.
    pub fn connect(&self, guest_port: u32, first: &[u8]) -> io::Result<UnixStream> {
        let (ours, theirs) = pair()?;
        let _held = self.events.hold();
        self.device
            .serve(|device, queues| device.connect(guest_port, first, ours, queues))
            .unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()))?;
        // The guest has the request already, so the thread's start costs it no time.
        self.events.start()?;
        Ok(theirs)
    }

    /// The host's end of the guest's connection to the control port. It can be taken once.
    ///
    /// Before the guest connects, the stream is empty. It is for reading;
    /// [`Streams::send_control`] sends.
    ///
    /// # Errors
    /// `NotConnected` if the end was taken before, or the host's error if it has no sockets left.
    pub(crate) fn control(&self) -> io::Result<UnixStream> {
        self.device.with_device(Sockets::take_control)
    }

    /// Sends bytes on the control connection. The guest sees them before anything that follows,
    /// if it has buffers.
    ///
    /// # Errors
    /// `NotConnected` if there is no control connection, or no driver.
    pub(crate) fn send_control(&self, bytes: &[u8]) -> io::Result<()> {
        let _held = self.events.hold();
        self.device
            .serve(|device, queues| device.send_control(bytes, queues))
            .unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()))
    }

    /// Whether the guest stopped by itself. Every stream reads end of file then.
    #[must_use]
    pub fn has_hung_up(&self) -> bool {
        self.device.with_device(|device| device.hung_up)
    }

    /// Closes every stream, the control connection too: the guest will never run again.
    pub(crate) fn hang_up(&self) {
        self.device.hang_up();
    }
}
