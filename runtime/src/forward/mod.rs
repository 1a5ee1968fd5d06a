//! TCP and UDP between host and guest: ports of the host that lead to the guest, streams to TCP ports
//! of the guest, and TCP ports of the guest that lead to an address of the host.
//!
//! Each forward has one thread ([`relay`]), which serves all its connections ([`link`]) from a
//! listener of the host ([`listen`]) or of the guest ([`reverse`]), or its flows of datagrams ([`udp`]).
//! All forwards of a machine open
//! their streams through one [`dialer`]. The guest reaches nothing of the host but the addresses
//! that the app names.

mod dialer;
mod link;
mod listen;
mod relay;
mod reverse;
mod stream;
#[cfg(test)]
mod tests;
mod udp;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use supermachine_formats::wire::{Failure, Message, Reply, Request};

pub(crate) use self::dialer::Dialer;
use self::relay::Relay;
pub use self::stream::GuestStream;
#[cfg(feature = "tokio")]
pub(crate) use self::stream::told_apart;
pub use self::udp::UdpForward;
#[cfg(feature = "tokio")]
pub(crate) use self::udp::UdpPort;
pub(crate) use self::udp::expose;
use crate::Error;
use crate::agent::read_message;
use crate::error::{HostError, PortError, ProtocolError};
use crate::machine::MachineHandle;

/// A port of the host that leads to a port of the guest, from
/// [`Vm::expose_tcp`](crate::Vm::expose_tcp).
///
/// Each connection goes to the port on the guest's loopback interface, and is reset when nothing
/// listens there. Each direction closes by itself, as in TCP, and a side that stops reading blocks
/// the other.
///
/// Dropping it closes it: then, and when the machine stops, its connections are reset and the port
/// is free again.
#[derive(Debug)]
pub struct Forward {
    relay: Relay,
    address: SocketAddr,
}

impl Forward {
    /// The address that it listens on, with its actual port.
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

    /// Closes it and its connections.
    ///
    /// # Errors
    /// [`Error::Port`] when the machine had already stopped.
    pub fn close(self) -> Result<(), Error> {
        self.check()
    }
}

/// A socket file of the host that leads to a port of the guest, from
/// [`Vm::expose_unix`](crate::Vm::expose_unix). Only the file's owner may connect. It serves and
/// closes like a [`Forward`], and removes the file.
#[derive(Debug)]
pub struct UnixForward {
    relay: Relay,
    path: PathBuf,
}

impl UnixForward {
    /// The socket file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that it still serves.
    ///
    /// # Errors
    /// [`Error::Port`] when the machine has stopped.
    pub fn check(&self) -> Result<(), Error> {
        check(&self.relay, || self.path.display().to_string())
    }

    /// Closes it and its connections.
    ///
    /// # Errors
    /// [`Error::Port`] when the machine had already stopped.
    pub fn close(self) -> Result<(), Error> {
        self.check()
    }
}

/// A port of the guest that leads to an address of the host, from
/// [`Vm::reverse_tcp`](crate::Vm::reverse_tcp). Programs in the guest connect to it on their
/// loopback interface. It serves and closes like a [`Forward`].
#[derive(Debug)]
pub struct Reverse {
    relay: Relay,
    guest_port: u16,
}

impl Reverse {
    /// Serves a listener of the guest, which announces its connections on `stream`.
    pub(crate) fn start(
        dialer: &Arc<Dialer>,
        stream: UnixStream,
        port: u16,
        target: SocketAddr,
    ) -> Result<Self, Error> {
        let source = reverse::GuestListener::new(stream, target);
        let relay = Relay::start(Box::new(source), dialer)
            .map_err(|source| Error::Port { source: PortError::Guest { port, source } })?;
        Ok(Self { relay, guest_port: port })
    }

    /// The actual port in the guest.
    #[must_use]
    pub fn guest_port(&self) -> u16 {
        self.guest_port
    }

    /// Checks that it still serves.
    ///
    /// # Errors
    /// [`Error::Port`] when the machine has stopped.
    pub fn check(&self) -> Result<(), Error> {
        check(&self.relay, || format!("the guest's port {}", self.guest_port))
    }

    /// Closes it and its connections.
    ///
    /// # Errors
    /// [`Error::Port`] when the machine had already stopped.
    pub fn close(self) -> Result<(), Error> {
        self.check()
    }
}

/// Describes a [`Forward`], from [`Vm::forward`](crate::Vm::forward).
///
/// ```no_run
/// # fn main() -> Result<(), supermachine::Error> {
/// # let vm = supermachine::Image::from_store("snapshots", "nginx")?
/// #     .start(&supermachine::VmConfig::new())?;
/// let forward = vm.forward(80).bind(([0, 0, 0, 0, 0, 0, 0, 1], 0)).listen()?;
/// println!("http://{}/", forward.local_addr());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "nothing is listened on before `listen`"]
pub struct ForwardBuilder<'a> {
    dialer: &'a Arc<Dialer>,
    guest_port: u16,
    address: SocketAddr,
}

impl<'a> ForwardBuilder<'a> {
    pub(crate) fn new(dialer: &'a Arc<Dialer>, guest_port: u16) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { dialer, guest_port, address }
    }

    /// Sets the address to listen on, IPv4 or IPv6; port 0 picks a free port. The default is a free
    /// port of 127.0.0.1.
    pub fn bind(mut self, address: impl Into<SocketAddr>) -> Self {
        self.address = address.into();
        self
    }

    /// Starts to listen.
    ///
    /// # Errors
    /// [`Error::Port`] when the address is in use or not this host's, its port needs rights, or the
    /// guest's port is 0.
    pub fn listen(self) -> Result<Forward, Error> {
        let error = |source| Error::Port {
            source: PortError::Listen { address: self.address.to_string(), source },
        };
        let source = refuse_zero(self.guest_port)
            .and_then(|()| listen::Tcp::bind(self.address, self.guest_port))
            .map_err(error)?;
        let address = source.local_addr().map_err(error)?;
        let relay = Relay::start(Box::new(source), self.dialer).map_err(error)?;
        Ok(Forward { relay, address })
    }
}

/// Listens at a socket file for connections to a port of the guest.
pub(crate) fn listen_at(
    dialer: &Arc<Dialer>,
    path: &Path,
    guest_port: u16,
) -> Result<UnixForward, Error> {
    let error = |source| Error::Port {
        source: PortError::Listen { address: path.display().to_string(), source },
    };
    let source = refuse_zero(guest_port)
        .and_then(|()| listen::File::bind(path, guest_port))
        .map_err(error)?;
    let relay = Relay::start(Box::new(source), dialer).map_err(error)?;
    Ok(UnixForward { relay, path: path.to_owned() })
}

/// Connects to a port of the guest.
pub(crate) fn connect(
    machine: &Arc<dyn MachineHandle>,
    guest_port: u16,
) -> Result<GuestStream, Error> {
    refuse_zero(guest_port)
        .map_err(|source| Error::Port { source: PortError::Guest { port: guest_port, source } })?;
    let request = Request::Connect { port: guest_port, framed: false };
    match ask(machine, guest_port, &request)? {
        (stream, Reply::Connected) => Ok(GuestStream::new(stream)),
        _ => Err(Error::unexpected("connect")),
    }
}

/// Makes the guest listen on a port; 0 picks a free one. Returns the stream that announces its
/// connections, and the port.
pub(crate) fn listen_in_guest(
    machine: &Arc<dyn MachineHandle>,
    guest_port: u16,
) -> Result<(UnixStream, u16), Error> {
    match ask(machine, guest_port, &Request::Listen { port: guest_port })? {
        (stream, Reply::Listens { port }) => Ok((stream, port)),
        _ => Err(Error::unexpected("listen")),
    }
}

/// Opens a stream for a request, and waits for its first reply.
fn ask(
    machine: &Arc<dyn MachineHandle>,
    port: u16,
    request: &Request,
) -> Result<(UnixStream, Reply), Error> {
    let mut stream = machine.dial(&request.to_frame())?;
    match read_message(&mut stream, None) {
        Ok(Reply::Failed(failure)) => {
            Err(Error::Port { source: PortError::Guest { port, source: cause(&failure) } })
        }
        Ok(reply) => Ok((stream, reply)),
        Err(
            Error::Protocol { source: ProtocolError::AgentGone }
            | Error::Host { source: HostError::Stream { .. } },
        ) => Err(machine.wait_exit().into_error()),
        Err(error) => Err(error),
    }
}

fn check(relay: &Relay, address: impl Fn() -> String) -> Result<(), Error> {
    if relay.has_ended() {
        Err(Error::Port { source: PortError::Closed { address: address() } })
    } else {
        Ok(())
    }
}

/// Port 0 is valid for listeners only.
pub(crate) fn refuse_zero(guest_port: u16) -> io::Result<()> {
    if guest_port == 0 { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
}

/// The guest's error number, from Linux.
pub(crate) fn cause(failure: &Failure) -> io::Error {
    io::Error::from_raw_os_error(failure.errno.into())
}
