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
    fn family(self) -> u32 {
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

    fn on(self, call_number: u32, socket: &Fd, port: u16) -> Result<()> {
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

fn set(socket: &Fd, level: u32, name: u32, value: &[u8]) -> Result<()> {
    let place = value.as_ptr() as usize;
    let arguments = [socket.register(), flags(level), flags(name), place, value.len(), 0];
    // SAFETY: the kernel only reads the value.
    unsafe { call(nr::__NR_setsockopt, arguments) }.map(drop)
}
