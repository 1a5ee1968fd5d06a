//! The private segment between a guest and its stack. Every guest has the same, and is alone on it.
//!
//! The IPv4 addresses are of the range for benchmarks, which no network of a host should use; the IPv6
//! addresses are unique local ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The guest's address.
pub const GUEST_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The guest's address.
pub const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6d00, 0, 0, 0, 0, 0, 2);
/// The router and resolver.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The router.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6d00, 0, 0, 0, 0, 0, 1);
/// Stands for the host's loopback address.
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 3);
/// Stands for the host's loopback address.
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6d00, 0, 0, 0, 0, 0, 3);
/// The length of the network's prefix.
pub const PREFIX_V4: u8 = 24;
/// The length of the network's prefix.
pub const PREFIX_V6: u8 = 64;
/// The name of the host's loopback address.
pub const HOST_NAME: &str = "host.supermachine.internal";
/// The largest packet.
pub const MTU: u16 = 65_520;
/// The link address of everything but the guest. Locally administered.
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x02, 0x73, 0x6d, 0, 0, 1];

pub(crate) const DNS_PORT: u16 = 53;

/// Who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressOwner {
    Guest,
    Gateway,
    Host,
    /// On the segment, but nobody's.
    Nobody,
    Outside,
}

pub(crate) fn owner_of(address: IpAddr) -> AddressOwner {
    match address {
        IpAddr::V4(GUEST_V4) | IpAddr::V6(GUEST_V6) => AddressOwner::Guest,
        IpAddr::V4(GATEWAY_V4) | IpAddr::V6(GATEWAY_V6) => AddressOwner::Gateway,
        IpAddr::V4(HOST_V4) | IpAddr::V6(HOST_V6) => AddressOwner::Host,
        IpAddr::V4(v4) if v4.octets().starts_with(&[198, 18, 0]) => AddressOwner::Nobody,
        IpAddr::V6(v6) if v6.segments().starts_with(&[0xfd73, 0x6d00, 0, 0]) => {
            AddressOwner::Nobody
        }
        _ => AddressOwner::Outside,
    }
}
