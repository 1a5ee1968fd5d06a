//! The stack's end of the link to the guest: frames in, and a short queue of frames out.

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixDatagram as Socket;
use std::time::Instant as HostInstant;

use mio::net::UnixDatagram;
use mio::{Interest, Registry, Token};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::EthernetAddress;

use super::pace::Pace;
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
    /// Whether a frame of the guest's was left because of the pace.
    is_left: bool,
    /// The paces from the guest and to it.
    paces: Option<[Pace; 2]>,
    /// The bytes that have passed both ways.
    passed: u64,
}

impl GuestLink {
    /// The link over a socket. `rate` is how many bytes of each direction it passes in a second.
    pub(super) fn new(
        socket: Socket,
        rate: Option<u64>,
        (registry, token): (&Registry, Token),
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let mut socket = UnixDatagram::from_std(socket);
        registry.register(&mut socket, token, Interest::READABLE)?;
        let guest = EthernetAddress::BROADCAST;
        let now = HostInstant::now();
        Ok(Self {
            socket,
            token,
            guest,
            queue: VecDeque::new(),
            is_held: false,
            is_left: false,
            paces: rate.map(|rate| [Pace::new(rate, now), Pace::new(rate, now)]),
            passed: 0,
        })
    }

    /// Receives a frame. `None` if there is none, or the guest does not take its answers.
    pub(super) fn receive<'a>(&mut self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        if self.queue.len() > QUEUE {
            return None;
        }
        self.is_left = false;
        if let Some([pace, _]) = &mut self.paces
            && !pace.is_open(HostInstant::now())
        {
            self.is_left = true;
            return None;
        }
        let length = self.socket.recv(buffer).ok()?;
        if let Some([pace, _]) = &mut self.paces {
            pace.take(length);
        }
        self.passed += length as u64;
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
        let must_wait = !self.queue.is_empty() || !self.is_open() || !self.put(&frame);
        if must_wait && self.queue.len() < QUEUE + MARGIN {
            self.queue.push_back(frame);
        }
    }

    /// Sends what waits, as far as there is room. Returns whether sockets were held back and may go on.
    pub(super) fn flush(&mut self) -> bool {
        while self.is_open()
            && let Some(frame) = self.queue.pop_front()
        {
            if !self.put(&frame) {
                self.queue.push_front(frame);
                break;
            }
        }
        self.has_room() && std::mem::take(&mut self.is_held)
    }

    /// Has the poller report what the link waits for.
    pub(super) fn watch(&mut self, registry: &Registry) -> io::Result<()> {
        let interest = match self.is_waiting() {
            false => Interest::READABLE,
            true => Interest::READABLE | Interest::WRITABLE,
        };
        registry.reregister(&mut self.socket, self.token, interest)
    }

    /// Whether frames wait for room in the link.
    pub(super) fn is_waiting(&mut self) -> bool {
        !self.queue.is_empty() && self.is_open()
    }

    /// The bytes that have passed both ways.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// When frames that wait for their time may pass.
    pub(super) fn opens_at(&self) -> Option<HostInstant> {
        let [from_guest, to_guest] = self.paces.as_ref()?;
        let waits = self.is_held || !self.queue.is_empty();
        let next =
            [self.is_left.then(|| from_guest.opens_at()), waits.then(|| to_guest.opens_at())];
        next.into_iter().flatten().min()
    }

    /// Sends a frame now. Returns `false` if the link is full. Without a guest, frames go nowhere.
    fn put(&mut self, frame: &[u8]) -> bool {
        let is_full =
            self.socket.send(frame).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        if !is_full {
            if let Some([_, pace]) = &mut self.paces {
                pace.take(frame.len());
            }
            self.passed += frame.len() as u64;
        }
        !is_full
    }

    /// Whether the pace lets a frame pass to the guest.
    fn is_open(&mut self) -> bool {
        self.paces.as_mut().is_none_or(|[_, pace]| pace.is_open(HostInstant::now()))
    }

    fn has_room(&mut self) -> bool {
        self.queue.len() < QUEUE && self.is_open()
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
