//! TCP over the loopback interface, IPv4 and IPv6.

use linux_raw_sys::general as nr;
use linux_raw_sys::net::{AF_INET, AF_INET6, SOCK_STREAM};

use super::fd::Fd;
use super::socket::socket;
use super::{Errno, Result, call, flags};

const BACKLOG: usize = 1024;
const SOL_SOCKET: u32 = 1;
const SO_REUSEADDR: u32 = 2;
const SO_ERROR: u32 = 4;
const SO_LINGER: u32 = 13;
const SO_PROTOCOL: u32 = 38;
const IPPROTO_TCP: u32 = 6;
const TCP_NODELAY: u32 = 1;
const SHUT_WR: usize = 1;

/// Which loopback address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loopback {
    /// 127.0.0.1
    V4,
    /// ::1
    V6,
}

/// `sockaddr_in` or `sockaddr_in6`: both begin with the family and the port.
#[repr(C, align(4))]
struct Address {
    bytes: [u8; 28],
    length: u32,
}

impl Loopback {
    pub(super) fn family(self) -> u32 {
        match self {
            Self::V4 => AF_INET,
            Self::V6 => AF_INET6,
        }
    }

    fn address(self, port: u16) -> Address {
        let mut bytes = [0; 28];
        let [f0, f1] = u16::try_from(self.family()).unwrap_or(0).to_ne_bytes();
        let [p0, p1] = port.to_be_bytes();
        bytes[..4].copy_from_slice(&[f0, f1, p0, p1]);
        let length = match self {
            Self::V4 => {
                bytes[4..8].copy_from_slice(&[127, 0, 0, 1]);
                16
            }
            Self::V6 => {
                bytes[23] = 1;
                28
            }
        };
        Address { bytes, length }
    }

    pub(super) fn on(self, call_number: u32, socket: &Fd, port: u16) -> Result<()> {
        let address = self.address(port);
        let place = address.bytes.as_ptr() as usize;
        let arguments = [socket.register(), place, flags(address.length), 0, 0, 0];
        // SAFETY: `bind` and `connect` read one address of this length.
        unsafe { call(call_number, arguments) }.map(drop)
    }
}

/// Begins to connect to a port. True: it is connected already; else it can be written to once
/// it is, or has failed, which [`outcome`] tells.
pub(crate) fn connect(to: Loopback, port: u16) -> Result<(Fd, bool)> {
    let socket = socket(to.family(), SOCK_STREAM | nr::O_NONBLOCK)?;
    match to.on(nr::__NR_connect, &socket, port) {
        Ok(()) => Ok((socket, true)),
        // The answer came while the call held the socket: asking again tells it.
        Err(Errno::EINPROGRESS) => match to.on(nr::__NR_connect, &socket, port) {
            Ok(()) => Ok((socket, true)),
            Err(Errno::EALREADY) => Ok((socket, false)),
            Err(errno) => Err(errno),
        },
        Err(errno) => Err(errno),
    }
}

/// What became of a connection that was begun.
pub(crate) fn outcome(socket: &Fd) -> Result<()> {
    let mut error = 0_i32;
    let mut length = 4_u32;
    let place = core::ptr::from_mut(&mut error) as usize;
    let length = core::ptr::from_mut(&mut length) as usize;
    let (level, name) = (flags(SOL_SOCKET), flags(SO_ERROR));
    // SAFETY: the kernel writes a number of four bytes, and how long it is.
    unsafe { call(nr::__NR_getsockopt, [socket.register(), level, name, place, length, 0]) }?;
    match u16::try_from(error) {
        Ok(0) => Ok(()),
        Ok(errno) => Err(Errno(errno)),
        Err(_) => Err(Errno::EINVAL),
    }
}

/// Listens on a port, 0 for one that the kernel picks; accepting does not wait.
pub(crate) fn listen(on: Loopback, port: u16) -> Result<Fd> {
    let socket = socket(on.family(), SOCK_STREAM | nr::O_NONBLOCK)?;
    set(&socket, SOL_SOCKET, SO_REUSEADDR, &1_u32.to_ne_bytes())?;
    on.on(nr::__NR_bind, &socket, port)?;
    // SAFETY: no memory is involved.
    unsafe { call(nr::__NR_listen, [socket.register(), BACKLOG, 0, 0, 0, 0]) }?;
    Ok(socket)
}

/// The port that a socket is bound to.
pub(crate) fn port(socket: &Fd) -> Result<u16> {
    let mut bytes = [0_u8; 28];
    let mut length = 28_u32;
    let place = bytes.as_mut_ptr() as usize;
    let length = core::ptr::from_mut(&mut length) as usize;
    // SAFETY: the kernel writes at most 28 bytes, and how long the address is.
    unsafe { call(nr::__NR_getsockname, [socket.register(), place, length, 0, 0, 0]) }?;
    let [_, _, high, low, ..] = bytes;
    Ok(u16::from_be_bytes([high, low]))
}

/// Sends what is written at once, without waiting for more.
pub(crate) fn send_at_once(socket: &Fd) -> Result<()> {
    set(socket, IPPROTO_TCP, TCP_NODELAY, &1_u32.to_ne_bytes())
}

/// Has the peer find the connection reset when the socket is closed.
pub(crate) fn reset_on_close(socket: &Fd) -> Result<()> {
    let mut linger = [0; 8];
    linger[..4].copy_from_slice(&1_u32.to_ne_bytes());
    set(socket, SOL_SOCKET, SO_LINGER, &linger)
}

/// Shuts down the sending direction.
pub(crate) fn shut_down_sending(socket: &Fd) -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe { call(nr::__NR_shutdown, [socket.register(), SHUT_WR, 0, 0, 0, 0]) }.map(drop)
}

/// Another descriptor for a socket of a process.
pub(crate) fn borrowed(process: &Fd, descriptor: u32) -> Result<Fd> {
    let arguments = [process.register(), flags(descriptor), 0, 0, 0, 0];
    // SAFETY: no memory is involved.
    unsafe { call(nr::__NR_pidfd_getfd, arguments) }.map(Fd::adopt)
}

/// Whether this is one end of a TCP connection that leaves the machine.
pub(crate) fn is_remote(socket: &Fd) -> bool {
    let mut kind = [0_u8; 4];
    let mut length = 4_u32;
    let (place, room) = (kind.as_mut_ptr() as usize, core::ptr::from_mut(&mut length) as usize);
    let (level, name) = (flags(SOL_SOCKET), flags(SO_PROTOCOL));
    // SAFETY: the kernel writes a number of four bytes, and how long it is.
    let found =
        unsafe { call(nr::__NR_getsockopt, [socket.register(), level, name, place, room, 0]) };
    if found.is_err() || u32::from_ne_bytes(kind) != IPPROTO_TCP {
        return false;
    }
    let mut bytes = [0_u8; 28];
    let mut length = 28_u32;
    let (place, room) = (bytes.as_mut_ptr() as usize, core::ptr::from_mut(&mut length) as usize);
    // SAFETY: the kernel writes at most 28 bytes, and how long the address is.
    let peer = unsafe { call(nr::__NR_getpeername, [socket.register(), place, room, 0, 0, 0]) };
    peer.is_ok() && !is_loopback(&bytes)
}

/// Whether an address is of the loopback interface, in either family's form.
fn is_loopback(address: &[u8; 28]) -> bool {
    let [f0, f1, _, _, first, ..] = *address;
    let family = u32::from(u16::from_ne_bytes([f0, f1]));
    let v6 = address.get(8..24).unwrap_or_default();
    match family {
        AF_INET => first == 127,
        AF_INET6 => match v6.split_at_checked(12) {
            Some(([.., 0xff, 0xff], [first, ..])) => *first == 127,
            _ => v6.ends_with(&[0, 1]) && v6.iter().filter(|byte| **byte != 0).count() == 1,
        },
        _ => false,
    }
}

/// Ends a connection as if its peer had reset it.
pub(crate) fn disconnect(socket: &Fd) -> Result<()> {
    let unspecified = [0_u8; 16];
    let arguments = [socket.register(), unspecified.as_ptr() as usize, 16, 0, 0, 0];
    // SAFETY: `connect` reads an address of this length.
    unsafe { call(nr::__NR_connect, arguments) }.map(drop)
}

fn set(socket: &Fd, level: u32, name: u32, value: &[u8]) -> Result<()> {
    let place = value.as_ptr() as usize;
    let arguments = [socket.register(), flags(level), flags(name), place, value.len(), 0];
    // SAFETY: the kernel only reads the value.
    unsafe { call(nr::__NR_setsockopt, arguments) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ip: std::net::IpAddr) -> [u8; 28] {
        let mut bytes = [0; 28];
        let family = if ip.is_ipv4() { AF_INET } else { AF_INET6 };
        bytes[..2].copy_from_slice(&u16::try_from(family).unwrap().to_ne_bytes());
        match ip {
            std::net::IpAddr::V4(v4) => bytes[4..8].copy_from_slice(&v4.octets()),
            std::net::IpAddr::V6(v6) => bytes[8..24].copy_from_slice(&v6.octets()),
        }
        bytes
    }

    #[test]
    fn loopback_addresses_are_known_in_each_form() {
        for text in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(is_loopback(&address(text.parse().unwrap())), "{text}");
        }
        for text in ["128.0.0.1", "198.18.0.3", "::ffff:198.18.0.3", "fd73:6d00::3", "::2", "::"] {
            assert!(!is_loopback(&address(text.parse().unwrap())), "{text}");
        }
    }

    #[test]
    fn connection_of_this_machine_is_not_remote() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!is_remote(&Fd::from_owned(stream.into())));
        assert!(!is_remote(&Fd::from_owned(listener.into())));
    }

    #[test]
    fn disconnected_socket_is_reset_for_both() {
        use std::io::Read;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let other = stream.try_clone().unwrap();
        disconnect(&Fd::from_owned(stream.into())).unwrap();
        let error = peer.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert!((&other).read(&mut [0]).is_err());
    }
}
