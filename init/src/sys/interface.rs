//! A network interface: its state, addresses and routes.
//!
//! rustix has none of these requests; each is an `ioctl` with a structure of ours.

use linux_raw_sys::ioctl::{
    SIOCADDRT, SIOCGIFFLAGS, SIOCGIFINDEX, SIOCSIFADDR, SIOCSIFFLAGS, SIOCSIFMTU, SIOCSIFNETMASK,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::Result;
use super::fd::{Fd, ioctl};
use super::socket::socket;

const IFF_UP: u8 = 1;
/// A route that is up, and leads over a router.
const GATEWAY_UP: u32 = 3;

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Address {
    V4([u8; 4], u8),
    V6([u8; 16], u8),
}

/// The route to everything, over this router.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RouteRequest {
    V4([u8; 4]),
    V6([u8; 16]),
}

/// An interface, and a socket to command it with.
#[derive(Debug)]
pub(crate) struct Interface {
    socket: Fd,
    name: [u8; 16],
    index: i32,
}

/// `ifreq`: the name, and a value of up to 24 bytes.
#[repr(C, align(8))]
struct NamedRequest {
    name: [u8; 16],
    value: [u8; 24],
}

/// `in6_ifreq`.
#[repr(C)]
struct AddressRequest {
    address: [u8; 16],
    prefix: u32,
    index: i32,
}

/// `rtentry`, with room for what is not used.
#[repr(C, align(8))]
#[derive(Default)]
struct RouteV4 {
    start: [u64; 1],
    destination: [u8; 16],
    gateway: [u8; 16],
    mask: [u8; 16],
    flags: u16,
    rest: [u16; 3],
    end: [u64; 7],
}

/// `in6_rtmsg`.
#[repr(C)]
#[derive(Default)]
struct RouteV6 {
    destination: [u8; 16],
    source: [u8; 16],
    gateway: [u8; 16],
    kind: u32,
    lengths: [u16; 2],
    metric: u32,
    info: u64,
    flags: u32,
    index: i32,
}

impl Interface {
    /// Finds an interface by its name: `ENODEV` if there is none.
    pub(crate) fn find(name: &[u8]) -> Result<Self> {
        let socket = commander(AddressFamily::INET)?;
        let mut request = NamedRequest { name: [0; 16], value: [0; 24] };
        request.name.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
        let name = request.name;
        ioctl(&socket, SIOCGIFINDEX, &mut request)?;
        let [a, b, c, d, ..] = request.value;
        Ok(Self { socket, name, index: i32::from_ne_bytes([a, b, c, d]) })
    }

    /// Sets the largest packet.
    pub(crate) fn set_mtu(&self, mtu: u16) -> Result<()> {
        self.command(SIOCSIFMTU, &u32::from(mtu).to_ne_bytes())
    }

    /// Sets the interface up or down.
    pub(crate) fn set_up(&self, up: bool) -> Result<()> {
        let mut request = NamedRequest { name: self.name, value: [0; 24] };
        ioctl(&self.socket, SIOCGIFFLAGS, &mut request)?;
        let [low, _, ..] = &mut request.value;
        *low = if up { *low | IFF_UP } else { *low & !IFF_UP };
        ioctl(&self.socket, SIOCSIFFLAGS, &mut request)
    }

    /// Gives the interface an address: `EEXIST` if it has it.
    pub(crate) fn add(&self, address: &Address) -> Result<()> {
        match *address {
            Address::V4(address, prefix) => {
                let mask = u32::MAX.checked_shl(u32::from(32_u8.saturating_sub(prefix)));
                self.command(SIOCSIFADDR, &socket_address(address))?;
                self.command(SIOCSIFNETMASK, &socket_address(mask.unwrap_or(0).to_be_bytes()))
            }
            Address::V6(address, prefix) => {
                let index = self.index;
                let mut request = AddressRequest { address, prefix: prefix.into(), index };
                ioctl(&commander(AddressFamily::INET6)?, SIOCSIFADDR, &mut request)
            }
        }
    }

    /// Adds a route over this interface: `EEXIST` if it is there.
    pub(crate) fn route(&self, route: &RouteRequest) -> Result<()> {
        match *route {
            RouteRequest::V4(gateway) => {
                let mut request = RouteV4 {
                    destination: socket_address([0; 4]),
                    gateway: socket_address(gateway),
                    mask: socket_address([0; 4]),
                    flags: u16::try_from(GATEWAY_UP).unwrap_or(0),
                    ..RouteV4::default()
                };
                ioctl(&self.socket, SIOCADDRT, &mut request)
            }
            RouteRequest::V6(gateway) => {
                let mut request =
                    RouteV6 { gateway, flags: GATEWAY_UP, index: self.index, ..RouteV6::default() };
                ioctl(&commander(AddressFamily::INET6)?, SIOCADDRT, &mut request)
            }
        }
    }

    fn command(&self, command: u32, value: &[u8]) -> Result<()> {
        let mut request = NamedRequest { name: self.name, value: [0; 24] };
        request.value.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
        ioctl(&self.socket, command, &mut request)
    }
}

/// A socket for requests of a family.
fn commander(family: AddressFamily) -> Result<Fd> {
    socket(family, SocketType::DGRAM, SocketFlags::empty())
}

/// `sockaddr_in` without a port.
fn socket_address([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    let [f0, f1] = AddressFamily::INET.as_raw().to_ne_bytes();
    [f0, f1, 0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_sizes_of_the_kernel() {
        assert_eq!(size_of::<NamedRequest>(), 40);
        assert_eq!(size_of::<AddressRequest>(), 24);
        assert_eq!(size_of::<RouteV4>(), 120);
        assert_eq!(size_of::<RouteV6>(), 80);
    }

    #[test]
    fn interfaces_are_found_by_name() {
        assert!(Interface::find(b"lo").unwrap().index > 0);
        assert_eq!(Interface::find(b"none").unwrap_err(), super::super::Errno::NODEV);
    }
}
