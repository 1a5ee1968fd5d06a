//! A guest: a second stack at the other end of the link.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as Time;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpProtocol};

use crate::packet::{Content, FRAME_HEADER, Packet, put_frame_header, read_frame, read_packet};
use crate::segment::{
    GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, GUEST_V4, GUEST_V6, MTU, PREFIX_V4, PREFIX_V6,
};

/// Longer than anything takes, even on a slow host.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 7]);

pub(super) struct Guest {
    cable: Cable,
    interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    start: Instant,
    next_port: u16,
}

impl Guest {
    pub(super) fn new(link: UnixDatagram) -> Self {
        link.set_nonblocking(true).unwrap();
        let mut cable = Cable { link, others: VecDeque::new() };
        let mut config = Config::new(HardwareAddress::Ethernet(MAC));
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut cable, Time::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddr::from(GUEST_V4).into(), PREFIX_V4)).unwrap();
            addresses.push(IpCidr::new(IpAddr::from(GUEST_V6).into(), PREFIX_V6)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(GATEWAY_V4).unwrap();
        interface.routes_mut().add_default_ipv6_route(GATEWAY_V6).unwrap();
        let sockets = SocketSet::new(Vec::new());
        Self { cable, interface, sockets, start: Instant::now(), next_port: 40_000 }
    }

    /// The guest with a new link, as after a reset that it survives.
    pub(super) fn plug(&mut self, link: UnixDatagram) {
        link.set_nonblocking(true).unwrap();
        self.cable.link = link;
    }

    pub(super) fn step(&mut self) {
        let now = Time::from_micros(i64::try_from(self.start.elapsed().as_micros()).unwrap());
        self.interface.poll(now, &mut self.cable, &mut self.sockets);
    }

    /// Works until something holds.
    pub(super) fn until<T>(
        &mut self,
        what: &str,
        mut holds: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            self.step();
            if let Some(result) = holds(self) {
                return result;
            }
            assert!(Instant::now() < end, "{what}");
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// Begins a connection.
    pub(super) fn connect(&mut self, to: SocketAddr) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 256 << 10]);
        let mut socket = Socket::new(buffer(), buffer());
        self.next_port += 1;
        let from: IpAddr = if to.is_ipv4() { GUEST_V4.into() } else { GUEST_V6.into() };
        socket.connect(self.interface.context(), to, (from, self.next_port)).unwrap();
        self.sockets.add(socket)
    }

    pub(super) fn connected(&mut self, to: SocketAddr) -> SocketHandle {
        let handle = self.connect(to);
        let state = self.until("the connection is made", |guest| guest.settled(handle));
        assert_eq!(state, State::Established, "{to}");
        handle
    }

    /// The state of a connection that is made or refused.
    pub(super) fn settled(&mut self, handle: SocketHandle) -> Option<State> {
        let state = self.socket(handle).state();
        (state != State::SynSent).then_some(state)
    }

    pub(super) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Sends all of `bytes` and reads what comes meanwhile, up to `expected` bytes.
    pub(super) fn exchange(
        &mut self,
        handle: SocketHandle,
        bytes: &[u8],
        expected: usize,
    ) -> Vec<u8> {
        let (mut sent, mut received) = (0, Vec::new());
        self.until("the bytes pass", |guest| {
            let socket = guest.socket(handle);
            if sent < bytes.len() && socket.can_send() {
                sent += socket.send_slice(&bytes[sent..]).unwrap();
            }
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
            }
            (sent == bytes.len() && received.len() >= expected).then_some(())
        });
        received
    }

    /// Reads until the other side ends.
    pub(super) fn read_to_end(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut received = Vec::new();
        self.until("the other side ends", |guest| {
            let socket = guest.socket(handle);
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
            }
            (!socket.may_recv()).then_some(())
        });
        received
    }

    /// Sends an IP packet as it is.
    pub(super) fn send_packet(&mut self, packet: &[u8]) {
        let mut frame = vec![0; FRAME_HEADER];
        frame.extend(packet);
        put_frame_header(&mut frame, EthernetAddress(GATEWAY_MAC));
        frame[6..12].copy_from_slice(&MAC.0);
        self.send_frame(&frame);
    }

    pub(super) fn send_frame(&mut self, frame: &[u8]) {
        let end = Instant::now() + PATIENCE;
        while self.cable.link.send(frame).is_err() {
            assert!(Instant::now() < end, "the link has room");
            self.cable.fill();
            thread::yield_now();
        }
    }

    /// The next packet that is neither TCP nor about neighbours.
    pub(super) fn other(&mut self) -> Vec<u8> {
        self.until("a packet arrives", |guest| guest.cable.others.pop_front())
    }

    pub(super) fn forget_others(&mut self) {
        self.cable.others.clear();
    }
}

struct Cable {
    link: UnixDatagram,
    others: VecDeque<Vec<u8>>,
}

impl Cable {
    /// Takes the next frame for the stack of the guest, and puts others aside.
    fn fill(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; FRAME_HEADER + usize::from(MTU)];
        while let Ok(length) = self.link.recv(&mut buffer) {
            let frame = &buffer[..length];
            let (_, content) = read_frame(frame).expect("the stack sends frames");
            let packet = match content {
                Content::Ip(bytes) => Some(read_packet(bytes).expect("the stack sends packets")),
                Content::Arp(_) => None,
            };
            let is_neighbour = |packet: &Packet<'_>| {
                packet.protocol == IpProtocol::Icmpv6 && packet.payload.first() == Some(&136)
            };
            match packet {
                Some(packet) if packet.protocol != IpProtocol::Tcp && !is_neighbour(&packet) => {
                    self.others.push_back(packet.bytes.to_vec());
                    // Errors are for both.
                    if packet.protocol == IpProtocol::Udp {
                        continue;
                    }
                }
                _ => {}
            }
            return Some(frame.to_vec());
        }
        None
    }
}

struct Received(Vec<u8>);

struct Sending<'a>(&'a UnixDatagram);

impl Device for Cable {
    type RxToken<'b>
        = Received
    where
        Self: 'b;
    type TxToken<'b>
        = Sending<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Time) -> Option<(Received, Sending<'_>)> {
        let frame = self.fill()?;
        Some((Received(frame), Sending(&self.link)))
    }

    fn transmit(&mut self, _: Time) -> Option<Sending<'_>> {
        Some(Sending(&self.link))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_HEADER + usize::from(MTU);
        // As a guest's kernel does: nothing is filled in, but what comes is checked.
        capabilities.checksum.tcp = Checksum::Rx;
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        // A full link loses it, and the stack sends it again.
        let _ = self.0.send(&frame);
        result
    }
}
