//! Ranges of addresses.
//!
//! An address that holds another one, as IPv4 in IPv6 does, is judged by both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Address and prefix length of the IPv4 ranges that are not the public internet.
const NOT_PUBLIC_V4: [(Ipv4Addr, u8); 18] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    // Carriers' own, where some clouds have their metadata.
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // A cloud's metadata, though the range is public.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 52, 193, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(192, 175, 48, 0), 24),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Groups, and what is reserved.
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// The IPv6 ranges within 2000::/3 that are not the public internet.
const NOT_PUBLIC_V6: [(Ipv6Addr, u8); 5] = [
    // Protocols' own, among them Teredo.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    // 6to4: leads to the IPv4 address within.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Where translators put IPv4 addresses: the last four bytes.
const TRANSLATED: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// Whether an address is of the public internet.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !NOT_PUBLIC_V4.iter().any(|range| contains_v4(*range, v4)),
        IpAddr::V6(v6) if contains_v6(TRANSLATED, v6) => is_public(IpAddr::V4(last_four(v6))),
        IpAddr::V6(v6) => {
            contains_v6((Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3), v6)
                && !NOT_PUBLIC_V6.iter().any(|range| contains_v6(*range, v6))
        }
    }
}

/// Whether a flow may lead to an address at all, if a rule says so. It may not lead to this host's
/// loopback interface, which has a name of its own, to groups, or to an address in a disguise.
pub(crate) fn can_be_reached(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(v6) => {
            let [first, second, third, fourth, fifth, sixth, ..] = v6.segments();
            if contains_v6(TRANSLATED, v6) {
                return can_be_reached(IpAddr::V4(last_four(v6)));
            }
            if first == 0x2002 {
                let [a, b] = second.to_be_bytes();
                let [c, d] = third.to_be_bytes();
                return can_be_reached(IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
            }
            // Unspecified, loopback, and IPv4 addresses in IPv6 form.
            let is_low = [first, second, third, fourth, fifth] == [0; 5]
                || (first, second, third, fourth, fifth, sixth) == (0, 0, 0, 0, 0xffff, 0);
            // Link-local addresses mean nothing without an interface.
            !is_low && first & 0xff00 != 0xff00 && first & 0xffc0 != 0xfe80
        }
    }
}

pub(super) fn contains(range: (IpAddr, u8), address: IpAddr) -> bool {
    match (range, address) {
        ((IpAddr::V4(start), length), IpAddr::V4(v4)) => contains_v4((start, length), v4),
        ((IpAddr::V6(start), length), IpAddr::V6(v6)) => contains_v6((start, length), v6),
        _ => false,
    }
}

fn contains_v4((start, length): (Ipv4Addr, u8), address: Ipv4Addr) -> bool {
    let differ = u32::from(start) ^ u32::from(address);
    differ.checked_shr(32_u32.saturating_sub(length.into())).unwrap_or(0) == 0
}

fn contains_v6((start, length): (Ipv6Addr, u8), address: Ipv6Addr) -> bool {
    let differ = u128::from(start) ^ u128::from(address);
    differ.checked_shr(128_u32.saturating_sub(length.into())).unwrap_or(0) == 0
}

fn last_four(address: Ipv6Addr) -> Ipv4Addr {
    let [.., high, low] = address.segments();
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn public_addresses_are_public() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.167.0.1",
            "198.17.0.1",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1",
            "2a00:1450::1",
            "2001:4860:4860::8888",
            "2001:200::1",
            "64:ff9b::8.8.8.8",
        ] {
            assert!(is_public(address(text)), "{text}");
            assert!(can_be_reached(address(text)), "{text}");
        }
    }

    #[test]
    fn other_addresses_are_not() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:0:8.8.8.8",
            "100::1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:0:4136:e378::",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
            "5f00::1",
        ] {
            assert!(!is_public(address(text)), "{text}");
        }
    }

    #[test]
    fn loopback_is_out_of_reach_in_every_disguise() {
        for text in [
            "0.0.0.0",
            "127.0.0.1",
            "127.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:0:127.0.0.1",
            "ff02::1",
            "fe80::1",
            "2002:7f00:1::",
            "2002:0:0::1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::0.0.0.0",
        ] {
            assert!(!can_be_reached(address(text)), "{text}");
        }
        for text in ["10.0.0.1", "169.254.169.254", "fd00::1", "2002:a00:1::1", "64:ff9b::10.0.0.1"]
        {
            assert!(can_be_reached(address(text)), "{text}");
        }
    }
}
