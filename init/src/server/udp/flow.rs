//! One flow: a stream of the host, and the socket that its datagrams come from in the guest.
//!
//! Both descriptors are registered edge-triggered. Invariants: nothing is read from the guest's socket
//! while the host's stream has bytes queued, so that the kernel drops what the host does not take; and
//! an error of the guest's socket, such as a closed port, never ends the flow.

use supermachine_formats::relay::Endpoint;
use supermachine_formats::wire::{Datagram, HEADER_SIZE, MAX_DATAGRAM, Message, Reply};

use crate::link::Inbox;
use crate::server::token::Side;
use crate::sys::fd::Fd;
use crate::sys::poll::{EventFlags, HANG_UP, READABLE, WRITABLE};
use crate::sys::tcp::{self, Loopback};
use crate::sys::{Errno, Result, socket, udp};

/// Datagrams of the guest, and pieces of the host, moved per event before others get their turn.
const TURNS: u32 = 16;
/// The bytes received from the host at once. The datagrams in them are sent before others get their
/// turn: no event would report them again.
const PIECE: usize = 16 << 10;

/// A flow. See the module.
#[derive(Debug)]
pub(super) struct Flow {
    host: Endpoint<Fd>,
    /// The bytes of an incomplete frame.
    inbox: Inbox,
    guest: Fd,
    /// The address that `guest` sends to.
    to: Loopback,
    port: u16,
    /// Whether the guest's socket may have datagrams or an error.
    is_readable: bool,
}

impl Flow {
    /// A flow on a socket for a port. `inbox` holds the bytes that followed the request.
    pub(super) fn new((host, inbox): (Fd, Inbox), guest: Fd, port: u16) -> Self {
        let mut host = Endpoint::new(host);
        host.queue(Reply::Connected.to_frame());
        Self { host, inbox, guest, to: Loopback::V4, port, is_readable: true }
    }

    /// The host's stream.
    pub(super) fn host(&self) -> &Fd {
        self.host.socket()
    }

    /// The socket in the guest.
    pub(super) fn guest(&self) -> &Fd {
        &self.guest
    }

    /// Records the events of a descriptor.
    pub(super) fn hear(&mut self, side: Side, events: EventFlags) {
        let [readable, writable] =
            [READABLE, WRITABLE].map(|kind| events.intersects(kind | HANG_UP));
        match side {
            Side::Host => self.host.hear(readable, writable),
            Side::Guest => self.is_readable = true,
        }
    }

    /// Moves datagrams. `watch` registers another socket for the guest. Returns whether more could be
    /// moved.
    ///
    /// # Errors
    /// The host has closed the stream or sent something else than datagrams.
    pub(super) fn advance(
        &mut self,
        scratch: &mut [u8],
        watch: impl Fn(&Fd) -> Result<()>,
    ) -> Result<bool> {
        for _ in 0..TURNS {
            let outward = self.outward(scratch)?;
            let inward = self.inward(scratch, &watch)?;
            if self.host.is_broken() {
                return Err(Errno::CONNRESET);
            }
            if !outward && !inward {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Moves a piece of the host's bytes to the guest. Returns whether there was one.
    fn inward(&mut self, scratch: &mut [u8], watch: impl Fn(&Fd) -> Result<()>) -> Result<bool> {
        // Those that came with the request.
        self.deliver_all(&watch)?;
        let piece = scratch.get_mut(..PIECE).unwrap_or_default();
        match self.host.receive(piece)? {
            None => Ok(false),
            Some(0) => Err(Errno::CONNRESET),
            Some(count) => {
                self.inbox.push(piece.split_at(count).0);
                self.deliver_all(watch)?;
                Ok(true)
            }
        }
    }

    /// Sends the whole datagrams that have arrived.
    fn deliver_all(&mut self, watch: impl Fn(&Fd) -> Result<()>) -> Result<()> {
        while let Some(Datagram(bytes)) = self.inbox.next().map_err(|_| Errno::PROTO)? {
            self.deliver(&bytes, &watch);
        }
        Ok(())
    }

    /// Sends a datagram to the port: to the other loopback address if nothing listens on this one, and
    /// to nobody if nothing listens there either.
    fn deliver(&mut self, bytes: &[u8], watch: impl Fn(&Fd) -> Result<()>) {
        if !is_refused(&self.guest, bytes) {
            return;
        }
        let other = match self.to {
            Loopback::V4 => Loopback::V6,
            Loopback::V6 => Loopback::V4,
        };
        let Ok(socket) = udp::connect(other, self.port) else { return };
        if !is_refused(&socket, bytes) && watch(&socket).is_ok() {
            self.guest = socket;
            self.to = other;
            self.is_readable = true;
        }
    }

    /// Moves a datagram from the guest to the host. Returns whether there was one.
    fn outward(&mut self, scratch: &mut [u8]) -> Result<bool> {
        if !self.host.flush() || !self.is_readable {
            return Ok(false);
        }
        let Some((header, payload)) = scratch.split_at_mut_checked(HEADER_SIZE) else {
            return Ok(false);
        };
        match socket::receive(&self.guest, payload) {
            Ok(count) if count <= MAX_DATAGRAM => {
                header.copy_from_slice(&Datagram::header(count));
                self.host.send(scratch.split_at(HEADER_SIZE + count).0);
                Ok(true)
            }
            // Only over IPv6, and the host could not send it on.
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => {
                self.is_readable = false;
                Ok(false)
            }
            // A closed port: the call has taken the error, and datagrams may stand behind it.
            Err(Errno::CONNREFUSED | Errno::INTR) => Ok(true),
            Err(errno) => Err(errno),
        }
    }
}

/// Sends a datagram, or drops it if there is no room. Returns whether nobody listens, which the
/// loopback interface reports at once.
fn is_refused(socket: &Fd, bytes: &[u8]) -> bool {
    for _ in 0..2 {
        match socket::send(socket, bytes) {
            // An error of an earlier datagram replaces this one's attempt.
            Err(Errno::CONNREFUSED | Errno::INTR) => {}
            Err(_) => return false,
            Ok(_) => break,
        }
    }
    tcp::outcome(socket) == Err(Errno::CONNREFUSED)
}
