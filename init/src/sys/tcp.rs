//! TCP over the loopback interface, IPv4 and IPv6.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, ipproto, sockopt};
use rustix::process::PidfdGetfdFlags;

use super::fd::Fd;
use super::socket::{BACKLOG, socket};
use super::{Errno, Result};

/// Which loopback address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loopback {
    /// 127.0.0.1
    V4,
    /// ::1
    V6,
}

impl Loopback {
    pub(super) fn family(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::INET,
            Self::V6 => AddressFamily::INET6,
        }
    }

    pub(super) fn address(self, port: u16) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::LOCALHOST, port).into(),
            Self::V6 => (Ipv6Addr::LOCALHOST, port).into(),
        }
    }
}

/// Begins to connect to a port. True: it is connected already; else it can be written to once
/// it is, or has failed, which [`outcome`] tells.
pub(crate) fn connect(to: Loopback, port: u16) -> Result<(Fd, bool)> {
    let socket = socket(to.family(), SocketType::STREAM, SocketFlags::NONBLOCK)?;
    let address = to.address(port);
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Ok((socket, true)),
        // The answer came while the call held the socket: asking again tells it.
        Err(Errno::INPROGRESS) => match rustix::net::connect(&socket, &address) {
            Ok(()) => Ok((socket, true)),
            Err(Errno::ALREADY) => Ok((socket, false)),
            Err(errno) => Err(errno),
        },
        Err(errno) => Err(errno),
    }
}

/// What became of a connection that was begun.
pub(crate) fn outcome(socket: &Fd) -> Result<()> {
    sockopt::socket_error(socket)?
}

/// Listens on a port, 0 for one that the kernel picks; accepting does not wait.
pub(crate) fn listen(on: Loopback, port: u16) -> Result<Fd> {
    let socket = socket(on.family(), SocketType::STREAM, SocketFlags::NONBLOCK)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &on.address(port))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// The port that a socket is bound to.
pub(crate) fn port(socket: &Fd) -> Result<u16> {
    Ok(SocketAddr::try_from(rustix::net::getsockname(socket)?)?.port())
}

/// Sends what is written at once, without waiting for more.
pub(crate) fn send_at_once(socket: &Fd) -> Result<()> {
    sockopt::set_tcp_nodelay(socket, true)
}

/// Has the peer find the connection reset when the socket is closed.
pub(crate) fn reset_on_close(socket: &Fd) -> Result<()> {
    sockopt::set_socket_linger(socket, Some(Duration::ZERO))
}

/// Shuts down the sending direction.
pub(crate) fn shut_down_sending(socket: &Fd) -> Result<()> {
    rustix::net::shutdown(socket, Shutdown::Write)
}

/// Another descriptor for a socket of a process.
pub(crate) fn borrowed(process: &Fd, descriptor: u32) -> Result<Fd> {
    let descriptor = i32::try_from(descriptor).map_err(|_| Errno::BADF)?;
    rustix::process::pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty()).map(Fd::from)
}

/// Whether this is one end of a TCP connection that leaves the machine.
pub(crate) fn is_remote(socket: &Fd) -> bool {
    if sockopt::socket_protocol(socket) != Ok(Some(ipproto::TCP)) {
        return false;
    }
    let peer = rustix::net::getpeername(socket).ok().flatten();
    peer.is_some_and(|peer| !SocketAddr::try_from(peer).is_ok_and(is_loopback))
}

/// Whether an address is of the loopback interface, in either family's form.
fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 0)
    }

    #[test]
    fn loopback_addresses_are_known_in_each_form() {
        for text in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(is_loopback(address(text)), "{text}");
        }
        for text in ["128.0.0.1", "198.18.0.3", "::ffff:198.18.0.3", "fd73:6d00::3", "::2", "::"] {
            assert!(!is_loopback(address(text)), "{text}");
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
        rustix::net::connect_unspec(Fd::from_owned(stream.into())).unwrap();
        let error = peer.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert!((&other).read(&mut [0]).is_err());
    }
}
