//! Frames and packets that are read and made by hand: all but TCP.
//!
//! The guest's are taken apart within bounds; what is no whole packet is none.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr,
    IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags,
    NdiscRepr, TcpPacket, UdpPacket, UdpRepr,
};

use crate::segment::{AddressOwner, GATEWAY_MAC, GATEWAY_V4, HOST_V4, owner_of};

/// Two addresses and a type.
pub(crate) const FRAME_HEADER: usize = 14;
const HOPS: u8 = 64;
/// How much of a packet an error repeats: what fits the smallest packet of IPv6.
const REPEATED: usize = 1000;

/// The parts of an IP packet that is whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: IpProtocol,
    pub(crate) payload: &'a [u8],
    /// All of it.
    pub(crate) bytes: &'a [u8],
}

/// The ports and flags of a TCP segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// Whether it asks for a connection.
    pub(crate) is_first: bool,
    pub(crate) is_reset: bool,
}

/// A UDP datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram<'a> {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) payload: &'a [u8],
}

/// Why a packet does not reach its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// It may not.
    Forbidden,
    /// The host finds no way.
    NoWay,
    /// Nothing listens.
    NoPort,
}

/// What a frame holds.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    Arp(&'a [u8]),
    Ip(&'a [u8]),
}

/// The sender and the content of a frame; `None` for frames that nothing answers.
pub(crate) fn read_frame(bytes: &[u8]) -> Option<(EthernetAddress, Content<'_>)> {
    let frame = EthernetFrame::new_checked(bytes).ok()?;
    let sender = frame.src_addr();
    let content = match frame.ethertype() {
        EthernetProtocol::Arp => Content::Arp(frame.payload()),
        EthernetProtocol::Ipv4 | EthernetProtocol::Ipv6 => Content::Ip(frame.payload()),
        EthernetProtocol::Unknown(_) => return None,
    };
    sender.is_unicast().then_some((sender, content))
}

/// Puts the header of a frame into the room before a packet.
pub(crate) fn put_frame_header(bytes: &mut [u8], receiver: EthernetAddress) {
    let is_v4 = bytes.get(FRAME_HEADER).is_some_and(|first| first >> 4 == 4);
    let kind = if is_v4 { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
    put_header(bytes, receiver, kind);
}

fn put_header(bytes: &mut [u8], receiver: EthernetAddress, kind: EthernetProtocol) {
    let mut frame = EthernetFrame::new_unchecked(bytes);
    frame.set_dst_addr(receiver);
    frame.set_src_addr(EthernetAddress(GATEWAY_MAC));
    frame.set_ethertype(kind);
}

/// The frame that answers a request for the link address of gateway or host.
pub(crate) fn answer_arp(bytes: &[u8]) -> Option<Vec<u8>> {
    let request = ArpRepr::parse(&ArpPacket::new_checked(bytes).ok()?).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = request
    else {
        return None;
    };
    if ![GATEWAY_V4, HOST_V4].contains(&target_protocol_addr) {
        return None;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(GATEWAY_MAC),
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let mut frame = vec![0; FRAME_HEADER + reply.buffer_len()];
    put_header(&mut frame, source_hardware_addr, EthernetProtocol::Arp);
    reply.emit(&mut ArpPacket::new_unchecked(frame.get_mut(FRAME_HEADER..)?));
    Some(frame)
}

/// Takes an IP packet apart. Fragments are none: the guest's packets are never too large.
pub(crate) fn read_packet(bytes: &[u8]) -> Option<Packet<'_>> {
    match bytes.first()? >> 4 {
        4 => {
            let packet = Ipv4Packet::new_checked(bytes).ok()?;
            if packet.more_frags() || packet.frag_offset() != 0 || !packet.verify_checksum() {
                return None;
            }
            Some(Packet {
                source: packet.src_addr().into(),
                destination: packet.dst_addr().into(),
                protocol: packet.next_header(),
                payload: packet.payload(),
                bytes: bytes.get(..packet.total_len().into())?,
            })
        }
        6 => {
            let packet = Ipv6Packet::new_checked(bytes).ok()?;
            Some(Packet {
                source: packet.src_addr().into(),
                destination: packet.dst_addr().into(),
                protocol: packet.next_header(),
                payload: packet.payload(),
                bytes: bytes.get(..packet.total_len())?,
            })
        }
        _ => None,
    }
}

impl<'a> Packet<'a> {
    /// The segment in the packet.
    pub(crate) fn segment(&self) -> Option<Segment> {
        let segment = TcpPacket::new_checked(self.payload).ok()?;
        let (from, to) = (segment.src_port(), segment.dst_port());
        if from == 0 || to == 0 {
            return None;
        }
        Some(Segment {
            source: (self.source, from).into(),
            destination: (self.destination, to).into(),
            is_first: segment.syn() && !segment.ack() && !segment.rst() && !segment.fin(),
            is_reset: segment.rst(),
        })
    }

    /// The datagram in the packet.
    pub(crate) fn datagram(&self) -> Option<Datagram<'a>> {
        let datagram = UdpPacket::new_checked(self.payload).ok()?;
        let (from, to) = (datagram.src_port(), datagram.dst_port());
        if from == 0 || to == 0 {
            return None;
        }
        Some(Datagram {
            source: (self.source, from).into(),
            destination: (self.destination, to).into(),
            payload: self.payload.get(8..datagram.len().into())?,
        })
    }

    /// The packet that answers an echo request to gateway or host, or a search for a neighbour.
    pub(crate) fn answer(&self) -> Option<Vec<u8>> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                if !matches!(owner_of(self.destination), AddressOwner::Gateway | AddressOwner::Host)
                {
                    return None;
                }
                let packet = Icmpv4Packet::new_checked(self.payload).ok()?;
                let request = Icmpv4Repr::parse(&packet, &checksums()).ok()?;
                let Icmpv4Repr::EchoRequest { ident, seq_no, data } = request else { return None };
                let reply = Icmpv4Repr::EchoReply { ident, seq_no, data };
                Some(icmp_v4(destination, source, &reply))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let packet = Icmpv6Packet::new_checked(self.payload).ok()?;
                let request =
                    Icmpv6Repr::parse(&source, &destination, &packet, &checksums()).ok()?;
                match request {
                    Icmpv6Repr::EchoRequest { ident, seq_no, data }
                        if matches!(
                            owner_of(self.destination),
                            AddressOwner::Gateway | AddressOwner::Host
                        ) =>
                    {
                        let reply = Icmpv6Repr::EchoReply { ident, seq_no, data };
                        Some(icmp_v6(destination, source, &reply))
                    }
                    Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. })
                        if matches!(
                            owner_of(target_addr.into()),
                            AddressOwner::Gateway | AddressOwner::Host
                        ) && !source.is_unspecified() =>
                    {
                        let reply = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
                            flags: NdiscNeighborFlags::ROUTER
                                | NdiscNeighborFlags::SOLICITED
                                | NdiscNeighborFlags::OVERRIDE,
                            target_addr,
                            lladdr: Some(EthernetAddress(GATEWAY_MAC).into()),
                        });
                        Some(icmp_v6(target_addr, source, &reply))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The error that tells the sender of the packet why it does not arrive. It comes from where the
    /// packet was to go.
    pub(crate) fn error(&self, why: Unreachable) -> Option<Vec<u8>> {
        let data = self.payload.get(..REPEATED).unwrap_or(self.payload);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let packet = Ipv4Packet::new_checked(self.bytes).ok()?;
                let error = Icmpv4Repr::DstUnreachable {
                    reason: match why {
                        Unreachable::Forbidden => Icmpv4DstUnreachable::CommProhibited,
                        Unreachable::NoWay => Icmpv4DstUnreachable::HostUnreachable,
                        Unreachable::NoPort => Icmpv4DstUnreachable::PortUnreachable,
                    },
                    header: Ipv4Repr::parse(&packet, &checksums()).ok()?,
                    data,
                };
                Some(icmp_v4(destination, source, &error))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let packet = Ipv6Packet::new_checked(self.bytes).ok()?;
                let error = Icmpv6Repr::DstUnreachable {
                    reason: match why {
                        Unreachable::Forbidden => Icmpv6DstUnreachable::AdminProhibit,
                        Unreachable::NoWay => Icmpv6DstUnreachable::AddrUnreachable,
                        Unreachable::NoPort => Icmpv6DstUnreachable::PortUnreachable,
                    },
                    header: Ipv6Repr::parse(&packet).ok()?,
                    data,
                };
                Some(icmp_v6(destination, source, &error))
            }
            _ => None,
        }
    }
}

/// The packet of a datagram; `None` if the two addresses are of different kinds, or it is too large.
pub(crate) fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    if from.is_ipv4() != to.is_ipv4() || payload.len() > usize::from(u16::MAX) - 28 {
        return None;
    }
    let (source, destination) = (IpAddress::from(from.ip()), IpAddress::from(to.ip()));
    let udp = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let length = udp.header_len() + payload.len();
    let ip = IpRepr::new(source, destination, IpProtocol::Udp, length, HOPS);
    let mut packet = vec![0; ip.buffer_len()];
    ip.emit(&mut packet, &checksums());
    let mut body = UdpPacket::new_unchecked(packet.get_mut(ip.header_len()..)?);
    let fill = |room: &mut [u8]| room.copy_from_slice(payload);
    udp.emit(&mut body, &source, &destination, payload.len(), fill, &checksums());
    Some(packet)
}

fn icmp_v4(from: std::net::Ipv4Addr, to: std::net::Ipv4Addr, message: &Icmpv4Repr<'_>) -> Vec<u8> {
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Icmp,
        payload_len: message.buffer_len(),
        hop_limit: HOPS,
    };
    let mut packet = vec![0; ip.buffer_len() + message.buffer_len()];
    let (header, body) = packet.split_at_mut(ip.buffer_len());
    ip.emit(&mut Ipv4Packet::new_unchecked(header), &checksums());
    message.emit(&mut Icmpv4Packet::new_unchecked(body), &checksums());
    packet
}

fn icmp_v6(from: std::net::Ipv6Addr, to: std::net::Ipv6Addr, message: &Icmpv6Repr<'_>) -> Vec<u8> {
    let ip = Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        // Neighbours believe nothing that came over a router.
        hop_limit: 255,
    };
    let mut packet = vec![0; ip.buffer_len() + message.buffer_len()];
    let (header, body) = packet.split_at_mut(ip.buffer_len());
    ip.emit(&mut Ipv6Packet::new_unchecked(header));
    message.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(body), &checksums());
    packet
}

fn checksums() -> ChecksumCapabilities {
    ChecksumCapabilities::default()
}
