//! Datagrams with both of their addresses. The standard library has only the peer's, so that the answer
//! of a socket of every address may come from another one than the client asked.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use super::address::{Name, v4_form};
use super::calls::set;

/// Where a datagram came from, and where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    pub(crate) client: SocketAddr,
    /// The address of this host that it came to, if the socket reports it.
    local: Option<IpAddr>,
}

/// A control message with an address of this host. Nothing lies between the two for either form.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    info: Info,
}

#[repr(C)]
union Info {
    v4: libc::in_pktinfo,
    v6: libc::in6_pktinfo,
}

/// Has a socket that is bound to every address report which one a datagram came to.
pub(crate) fn report_destination(socket: &UdpSocket) -> io::Result<()> {
    match socket.local_addr()?.ip() {
        ip if !ip.is_unspecified() => Ok(()),
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, &1_i32),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &1_i32),
    }
}

/// Receives a datagram without blocking. What does not fit into the buffer is lost.
pub(crate) fn receive_from(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Route)> {
    let (mut name, mut control) = (Name::empty(), Control::empty());
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut message = message(&mut name, &mut part, &mut control);
    // SAFETY: the header describes `name`, `buffer` and `control`, which live on and are writable.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let has_control = message.msg_controllen >= size_of::<libc::cmsghdr>() as _;
    let local = if has_control { control.address() } else { None };
    Ok((count, Route { client: name.address()?, local }))
}

/// Sends a datagram back on a route without blocking.
pub(crate) fn send_back(socket: &UdpSocket, bytes: &[u8], route: &Route) -> io::Result<usize> {
    let Some(local) = route.local else { return socket.send_to(bytes, route.client) };
    let (mut name, length) = Name::of(route.client);
    let mut control = Control::of(local);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut message = message(&mut name, &mut part, &mut control);
    message.msg_namelen = length;
    let how = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the header describes `name`, `bytes` and `control`, which are only read.
    let count = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, how) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

fn message(name: &mut Name, part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: a message header of zeros is one with no parts.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = (&raw mut *name).cast();
    message.msg_namelen = size_of::<Name>() as _;
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut *control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    message
}

impl Control {
    fn empty() -> Self {
        // SAFETY: zeros are valid in every field of both forms.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    fn of(local: IpAddr) -> Self {
        let mut control = Self::empty();
        let size = match local {
            IpAddr::V4(ip) => {
                let address = v4_form(ip);
                control.info.v4 =
                    libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: address };
                control.header.cmsg_level = libc::IPPROTO_IP;
                control.header.cmsg_type = libc::IP_PKTINFO;
                size_of::<libc::in_pktinfo>()
            }
            IpAddr::V6(ip) => {
                let address = libc::in6_addr { s6_addr: ip.octets() };
                control.info.v6 = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
                control.header.cmsg_level = libc::IPPROTO_IPV6;
                control.header.cmsg_type = libc::IPV6_PKTINFO;
                size_of::<libc::in6_pktinfo>()
            }
        };
        control.header.cmsg_len = (size_of::<libc::cmsghdr>() + size) as _;
        control
    }

    /// The address that an answer can come from; none for a datagram to a group.
    fn address(&self) -> Option<IpAddr> {
        match (self.header.cmsg_level, self.header.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: every byte is initialized.
                let info = unsafe { self.info.v4 };
                Some(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into())
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: every byte is initialized.
                let info = unsafe { self.info.v6 };
                let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                (!ip.is_multicast()).then_some(ip.into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn server(address: &str) -> UdpSocket {
        let socket = UdpSocket::bind(address).unwrap();
        report_destination(&socket).unwrap();
        socket
    }

    /// Receives a datagram, which has arrived.
    fn received(socket: &UdpSocket) -> (Vec<u8>, Route) {
        let mut buffer = [0; 100];
        // Over the loopback interface a datagram arrives with the call that sends it.
        let (count, route) = receive_from(socket, &mut buffer).unwrap();
        (buffer[..count].to_vec(), route)
    }

    fn ask_at(server: &UdpSocket, from: &str, at: &str) -> Route {
        let client = UdpSocket::bind(from).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // A connected socket receives from this address alone.
        client
            .connect((at.parse::<IpAddr>().unwrap(), server.local_addr().unwrap().port()))
            .unwrap();
        client.send(b"question").unwrap();
        let (question, route) = received(server);
        assert_eq!(
            (question.as_slice(), route.client.port()),
            (&b"question"[..], client.local_addr().unwrap().port())
        );
        assert_eq!(send_back(server, b"answer", &route).unwrap(), 6);
        let mut answer = [0; 100];
        assert_eq!(client.recv(&mut answer).unwrap(), 6);
        route
    }

    #[test]
    fn answer_comes_from_the_address_that_was_asked() {
        let socket = server("0.0.0.0:0");
        for at in ["127.0.0.1", "127.0.0.2", "127.3.2.1"] {
            let route = ask_at(&socket, "127.0.0.1:0", at);
            assert_eq!(route.local, Some(at.parse().unwrap()));
        }
        let both = server("[::]:0");
        assert_eq!(ask_at(&both, "[::1]:0", "::1").local, Some(Ipv6Addr::LOCALHOST.into()));
        let mapped = ask_at(&both, "127.0.0.1:0", "127.0.0.2").local.unwrap();
        assert_eq!(mapped, "::ffff:127.0.0.2".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn socket_of_one_address_needs_no_report() {
        for (bound, from, at) in
            [("127.0.0.2:0", "127.0.0.1:0", "127.0.0.2"), ("[::1]:0", "[::1]:0", "::1")]
        {
            assert_eq!(ask_at(&server(bound), from, at).local, None);
        }
    }

    #[test]
    fn empty_socket_does_not_block() {
        let error = receive_from(&server("127.0.0.1:0"), &mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
