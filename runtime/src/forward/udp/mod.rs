//! UDP ports of the host that lead to the guest.
//!
//! Each forward has one thread ([`server`]), as those of TCP do. It opens a stream for each client
//! ([`flow`]), so that the program in the guest sees a source port for each client, and its
//! answers go to the right one. Invariants: a client reaches no flow but its own; and what a side has no
//! room for is dropped, so that no flow waits for another and memory stays bounded.

mod flow;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use supermachine_formats::wire::{Reply, Request};

use self::server::{Limits, Server};
use super::dialer::Dialer;
use super::relay::Relay;
use super::{ask, cause, check, refuse_zero};
use crate::Error;
use crate::error::{PortError, ProtocolError};
use crate::machine::MachineHandle;
use crate::os;

/// A quarter of a machine's streams, and the shortest time that RFC 4787 allows a NAT; Linux tracks
/// answered flows for as long.
const LIMITS: Limits = Limits { flows: 256, idle: Duration::from_secs(120) };

/// A UDP port of the host that leads to a port of the guest, from
/// [`Vm::expose_udp`](crate::Vm::expose_udp).
///
/// Each address that datagrams come from is a flow, with a source port of its own on the guest's
/// loopback interface. Answers come from the address that the client asked. A flow lasts until 120 seconds have passed without a datagram. A forward has at
/// most 256 flows: another client replaces the flow that has been idle for longest, of those without an
/// answer first. Datagrams have at most 65,507 bytes. As in any network, datagrams are dropped when a
/// side does not take them in time, and while nothing listens on the guest's port.
///
/// Dropping it closes it: then, and when the machine stops, its flows end and the port is free again.
#[derive(Debug)]
pub struct UdpForward {
    relay: Relay,
    address: SocketAddr,
}

impl UdpForward {
    /// The address that it receives on, with its actual port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Checks that it still serves.
    ///
    /// # Errors
    /// [`Error::Port`] when the machine has stopped.
    pub fn check(&self) -> Result<(), Error> {
        check(&self.relay, || self.address.to_string())
    }

    /// Closes it and its flows.
    ///
    /// # Errors
    /// [`Error::Port`] when the machine had already stopped.
    pub fn close(self) -> Result<(), Error> {
        self.check()
    }
}

/// A bound socket, and the port of the guest that it is for.
#[derive(Debug)]
pub(crate) struct UdpPort {
    socket: UdpSocket,
    address: SocketAddr,
    guest_port: u16,
}

impl UdpPort {
    /// Binds an address.
    pub(crate) fn bind(address: SocketAddr, guest_port: u16) -> Result<Self, Error> {
        let bind = || {
            refuse_zero(guest_port)?;
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            os::report_destination(&socket)?;
            Ok((socket.local_addr()?, socket))
        };
        let (address, socket) = bind().map_err(|source| listen_error(address, source))?;
        Ok(Self { socket, address, guest_port })
    }

    /// The request for a flow.
    pub(crate) fn request(&self) -> Request {
        Request::Datagrams { port: self.guest_port }
    }

    /// Checks what the guest replies to the request.
    pub(crate) fn check(&self, reply: Result<Reply, Error>) -> Result<(), Error> {
        let port = self.guest_port;
        match reply {
            Ok(Reply::Connected) => Ok(()),
            Ok(Reply::Failed(failure)) => {
                Err(Error::Port { source: PortError::Guest { port, source: cause(&failure) } })
            }
            Ok(_) => Err(Error::unexpected("datagrams")),
            // An agent closes the stream of a request that it does not know.
            Err(Error::Protocol { source: ProtocolError::AgentGone }) => {
                Err(Error::Port { source: PortError::NoUdp { port } })
            }
            Err(error) => Err(error),
        }
    }

    /// Starts to serve.
    pub(crate) fn serve(self, dialer: &Arc<Dialer>) -> Result<UdpForward, Error> {
        self.serve_within(LIMITS, dialer)
    }

    fn serve_within(self, limits: Limits, dialer: &Arc<Dialer>) -> Result<UdpForward, Error> {
        let Self { socket, address, guest_port } = self;
        let relay = Server::start((socket, guest_port), limits, dialer)
            .map_err(|source| listen_error(address, source))?;
        Ok(UdpForward { relay, address })
    }
}

/// Serves an address once the guest has agreed to serve the port.
pub(crate) fn expose(
    machine: &Arc<dyn MachineHandle>,
    dialer: &Arc<Dialer>,
    address: SocketAddr,
    guest_port: u16,
) -> Result<UdpForward, Error> {
    let port = UdpPort::bind(address, guest_port)?;
    port.check(ask(machine, guest_port, &port.request()).map(|(_, reply)| reply))?;
    port.serve(dialer)
}

fn listen_error(address: SocketAddr, source: io::Error) -> Error {
    Error::Port { source: PortError::Listen { address: address.to_string(), source } }
}
