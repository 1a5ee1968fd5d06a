//! Answers to guests that ask for their address by DHCP.
//!
//! The agent sets the interface up without it. Images with a client of their own find the same
//! addresses: there is one for the guest, which nobody else can hold.

use std::net::{Ipv4Addr, SocketAddr};

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, Ipv4Cidr};

use crate::packet::datagram;
use crate::segment::{GATEWAY_V4, GUEST_V4, MTU, PREFIX_V4};

pub(crate) const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Seconds.
const LEASE: u32 = 86_400;
/// Numbers of options.
const NAME_SERVERS: u8 = 6;
const INTERFACE_MTU: u8 = 26;

/// The packet that answers a client's message; `None` if the message needs no answer.
pub(crate) fn answer(message: &[u8]) -> Option<Vec<u8>> {
    let packet = DhcpPacket::new_checked(message).ok()?;
    let request = DhcpRepr::parse(&packet).ok()?;
    let kind = kind(&request)?;
    let has_lease = kind != DhcpMessageType::Nak && request.message_type != DhcpMessageType::Inform;
    let (servers, mtu) = (GATEWAY_V4.octets(), MTU.to_be_bytes());
    let options = [
        DhcpOption { kind: NAME_SERVERS, data: &servers },
        DhcpOption { kind: INTERFACE_MTU, data: &mtu },
    ];
    let reply = DhcpRepr {
        message_type: kind,
        secs: 0,
        your_ip: if has_lease { GUEST_V4 } else { Ipv4Addr::UNSPECIFIED },
        server_ip: GATEWAY_V4,
        router: Some(GATEWAY_V4),
        subnet_mask: Some(Ipv4Cidr::new(GUEST_V4, PREFIX_V4).netmask()),
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(GATEWAY_V4),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: has_lease.then_some(LEASE),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &options,
        ..request
    };
    let mut payload = vec![0; reply.buffer_len()];
    reply.emit(&mut DhcpPacket::new_unchecked(&mut payload)).ok()?;
    datagram((GATEWAY_V4, SERVER_PORT).into(), receiver(&request, kind), &payload)
}

/// What to answer with.
fn kind(request: &DhcpRepr<'_>) -> Option<DhcpMessageType> {
    let is_ours = request.server_identifier.is_none_or(|server| server == GATEWAY_V4);
    match request.message_type {
        DhcpMessageType::Discover => Some(DhcpMessageType::Offer),
        DhcpMessageType::Request if is_ours => {
            let wanted = request.requested_ip.unwrap_or(request.client_ip);
            let is_right = wanted == GUEST_V4;
            Some(if is_right { DhcpMessageType::Ack } else { DhcpMessageType::Nak })
        }
        DhcpMessageType::Inform => Some(DhcpMessageType::Ack),
        _ => None,
    }
}

/// Where the answer goes: a client without an address may only hear what everybody hears.
fn receiver(request: &DhcpRepr<'_>, kind: DhcpMessageType) -> SocketAddr {
    let has_address = request.client_ip == GUEST_V4 || !request.broadcast;
    let to = match has_address && kind != DhcpMessageType::Nak {
        true => GUEST_V4,
        false => Ipv4Addr::BROADCAST,
    };
    (to, CLIENT_PORT).into()
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::EthernetAddress;

    use super::*;
    use crate::packet::read_packet;

    fn message(kind: DhcpMessageType) -> DhcpRepr<'static> {
        DhcpRepr {
            message_type: kind,
            transaction_id: 0x1234_5678,
            secs: 7,
            client_hardware_address: EthernetAddress([2, 0, 0, 0, 0, 7]),
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: None,
            client_identifier: None,
            server_identifier: None,
            parameter_request_list: Some(&[1, 3, 6, 26]),
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        }
    }

    /// The address that the answer goes to, its kind, and the address that it gives.
    fn answered(message: &DhcpRepr<'_>) -> Option<(SocketAddr, DhcpMessageType, Ipv4Addr)> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).unwrap();
        let packet = answer(&bytes)?;
        let datagram = read_packet(&packet).unwrap().datagram().unwrap();
        assert_eq!(datagram.source, (GATEWAY_V4, SERVER_PORT).into());
        let packet = DhcpPacket::new_checked(datagram.payload).unwrap();
        let reply = DhcpRepr::parse(&packet).unwrap();
        assert_eq!(reply.transaction_id, message.transaction_id);
        assert_eq!(reply.client_hardware_address, message.client_hardware_address);
        assert_eq!(reply.router, Some(GATEWAY_V4));
        assert_eq!(reply.subnet_mask, Some(Ipv4Addr::new(255, 255, 255, 0)));
        assert_eq!(reply.dns_servers.unwrap().as_slice(), [GATEWAY_V4]);
        assert_eq!(reply.lease_duration.is_some(), !reply.your_ip.is_unspecified());
        Some((datagram.destination, reply.message_type, reply.your_ip))
    }

    #[test]
    fn client_gets_the_guests_address() {
        let (guest, all) =
            ((GUEST_V4, CLIENT_PORT).into(), (Ipv4Addr::BROADCAST, CLIENT_PORT).into());
        let discover = message(DhcpMessageType::Discover);
        assert_eq!(answered(&discover), Some((guest, DhcpMessageType::Offer, GUEST_V4)));
        let request = DhcpRepr {
            requested_ip: Some(GUEST_V4),
            server_identifier: Some(GATEWAY_V4),
            broadcast: true,
            ..message(DhcpMessageType::Request)
        };
        assert_eq!(answered(&request), Some((all, DhcpMessageType::Ack, GUEST_V4)));
        let renewal = DhcpRepr { client_ip: GUEST_V4, ..message(DhcpMessageType::Request) };
        assert_eq!(answered(&renewal), Some((guest, DhcpMessageType::Ack, GUEST_V4)));
    }

    #[test]
    fn other_addresses_are_refused_and_other_servers_left_alone() {
        let other = Ipv4Addr::new(10, 0, 0, 9);
        let all = (Ipv4Addr::BROADCAST, CLIENT_PORT).into();
        let request = DhcpRepr { requested_ip: Some(other), ..message(DhcpMessageType::Request) };
        let refusal = Some((all, DhcpMessageType::Nak, Ipv4Addr::UNSPECIFIED));
        assert_eq!(answered(&request), refusal);
        let elsewhere = DhcpRepr { server_identifier: Some(other), ..request };
        assert_eq!(answered(&elsewhere), None);
        for kind in [DhcpMessageType::Release, DhcpMessageType::Decline, DhcpMessageType::Offer] {
            assert_eq!(answered(&message(kind)), None);
        }
    }

    #[test]
    fn client_with_an_address_learns_the_rest() {
        let inform = DhcpRepr { client_ip: GUEST_V4, ..message(DhcpMessageType::Inform) };
        let to = (GUEST_V4, CLIENT_PORT).into();
        assert_eq!(answered(&inform), Some((to, DhcpMessageType::Ack, Ipv4Addr::UNSPECIFIED)));
    }
}
