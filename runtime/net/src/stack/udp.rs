//! Datagrams of the guest: each pair of ends has a socket of the host for a while.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};

use super::guest_link::GuestLink;
use super::tcp::Key;
use crate::packet::datagram;

/// How long a flow lasts without a datagram.
const IDLE: Duration = Duration::from_secs(60);
/// Datagrams that one event passes on; the guest may lose more.
const TURN: usize = 256;

/// A flow of datagrams.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) key: Key,
    socket: UdpSocket,
    pub(super) used: Instant,
}

impl Flow {
    /// Opens a socket for a flow to `target`.
    ///
    /// # Errors
    /// The host refuses.
    pub(super) fn open(
        key: Key,
        target: SocketAddr,
        (registry, token): (&Registry, Token),
    ) -> io::Result<Self> {
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut socket = UdpSocket::bind((any, 0).into())?;
        socket.connect(target)?;
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Self { key, socket, used: Instant::now() })
    }

    /// Sends a datagram of the guest. One that the host does not take is lost.
    pub(super) fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        self.used = Instant::now();
        match self.socket.send(payload) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            other => other.map(drop),
        }
    }

    /// Passes on what has arrived.
    pub(super) fn receive(
        &mut self,
        buffer: &mut [u8],
        link: &mut GuestLink,
        (registry, token): (&Registry, Token),
    ) {
        let (guest, remote) = self.key;
        for _ in 0..TURN {
            match self.socket.recv(buffer) {
                Ok(length) => {
                    self.used = Instant::now();
                    let payload = buffer.split_at(length).0;
                    if let Some(packet) = datagram(remote, guest, payload) {
                        link.send_packet(&packet);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // An error of the peer, such as a closed port: the guest sends again, or not.
                Err(_) => {}
            }
        }
        // Others get their turn; the event comes again.
        let _ = registry.reregister(&mut self.socket, token, Interest::READABLE);
    }

    pub(super) fn end(&self) -> Instant {
        self.used.checked_add(IDLE).unwrap_or(self.used)
    }
}
