//! The stack's end of the link to the guest: frames in, and a short queue of frames out.

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixDatagram as Socket;

use mio::net::UnixDatagram;
use mio::{Interest, Registry, Token};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::EthernetAddress;

use crate::packet::{FRAME_HEADER, put_frame_header};
use crate::segment::MTU;

/// Frames that wait for room in the link. Beyond that, sockets wait.
const QUEUE: usize = 32;
/// Frames beyond that, which answer others and do not wait. More are lost.
const MARGIN: usize = 32;

/// The link to the guest.
#[derive(Debug)]
pub(super) struct GuestLink {
    socket: UnixDatagram,
    token: Token,
    /// Whom frames go to: the sender of the last one.
    guest: EthernetAddress,
    queue: VecDeque<Vec<u8>>,
    /// Whether a socket was held back since the queue was last short.
    is_held: bool,
}

impl GuestLink {
    pub(super) fn new(socket: Socket, registry: &Registry, token: Token) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let mut socket = UnixDatagram::from_std(socket);
        registry.register(&mut socket, token, Interest::READABLE)?;
        let guest = EthernetAddress::BROADCAST;
        Ok(Self { socket, token, guest, queue: VecDeque::new(), is_held: false })
    }

    /// Receives a frame. `None` if there is none, or the guest does not take its answers.
    pub(super) fn receive<'a>(&mut self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        if self.queue.len() > QUEUE {
            return None;
        }
        let length = self.socket.recv(buffer).ok()?;
        buffer.get(..length)
    }

    pub(super) fn set_guest(&mut self, guest: EthernetAddress) {
        self.guest = guest;
    }

    /// Sends an IP packet.
    pub(super) fn send_packet(&mut self, packet: &[u8]) {
        let mut frame = vec![0; FRAME_HEADER];
        frame.extend(packet);
        self.send_framed(frame);
    }

    /// Sends a packet that has room for the header of its frame.
    fn send_framed(&mut self, mut frame: Vec<u8>) {
        put_frame_header(&mut frame, self.guest);
        self.send(frame);
    }

    /// Sends a frame.
    pub(super) fn send(&mut self, frame: Vec<u8>) {
        let is_full = !self.queue.is_empty()
            || self
                .socket
                .send(&frame)
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        if is_full && self.queue.len() < QUEUE + MARGIN {
            self.queue.push_back(frame);
        }
    }

    /// Sends what waits, as far as there is room. Returns whether sockets were held back and may go on.
    pub(super) fn flush(&mut self) -> bool {
        while let Some(frame) = self.queue.front() {
            match self.socket.send(frame) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Without a guest, frames go nowhere.
                _ => drop(self.queue.pop_front()),
            }
        }
        self.has_room() && std::mem::take(&mut self.is_held)
    }

    /// Has the poller report what the link waits for.
    pub(super) fn watch(&mut self, registry: &Registry) -> io::Result<()> {
        let interest = if self.queue.is_empty() {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        registry.reregister(&mut self.socket, self.token, interest)
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    fn has_room(&self) -> bool {
        self.queue.len() < QUEUE
    }
}

/// The link as smoltcp uses it, with the packet that it is to take.
#[derive(Debug)]
pub(super) struct Wire<'a> {
    pub(super) link: &'a mut GuestLink,
    pub(super) packet: Option<&'a [u8]>,
}

#[derive(Debug)]
pub(super) struct Taken<'a>(&'a [u8]);

#[derive(Debug)]
pub(super) struct Sent<'a>(&'a mut GuestLink);

impl Device for Wire<'_> {
    type RxToken<'b>
        = Taken<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Sent<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Taken<'_>, Sent<'_>)> {
        let packet = self.packet.take()?;
        Some((Taken(packet), Sent(self.link)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sent<'_>> {
        if self.link.has_room() {
            return Some(Sent(self.link));
        }
        self.link.is_held = true;
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU.into();
        // The guest leaves its own to us.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

impl RxToken for Taken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; FRAME_HEADER + length];
        let (_, packet) = frame.split_at_mut(FRAME_HEADER);
        let result = fill(packet);
        self.0.send_framed(frame);
        result
    }
}
