//! TCP and UDP between host and guest, awaited. Forwards serve in the background, so the blocking API's are
//! used.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use supermachine_formats::wire::{Reply, Request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use super::request::ask;
use super::stream::{poll_read, unregister};
use super::vm::Vm;
use crate::error::PortError;
use crate::forward::{UdpPort, cause, refuse_zero, told_apart};
use crate::{Error, Forward, ForwardBuilder, Reverse, UdpForward, UnixForward};

/// A connection to a TCP port in the guest, from [`Vm::connect`]. It behaves like a
/// `tokio::net::TcpStream`, and uses no port of the host.
///
/// Reading fails with [`ConnectionReset`](io::ErrorKind::ConnectionReset) when the guest resets the
/// connection or exits. There is one exception: after this side has shut down sending, a reset
/// looks like end of file.
#[derive(Debug)]
pub struct GuestStream {
    stream: UnixStream,
    /// Whether this side has shut down sending.
    has_ended: bool,
}

impl AsyncRead for GuestStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, has_ended } = self.get_mut();
        let space = buffer.initialize_unfilled();
        let wanted = space.len();
        let count = ready!(poll_read(stream, cx, || stream.try_read(space)))?;
        buffer.advance(told_apart(count, wanted, *has_ended, stream)?);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, has_ended } = self.get_mut();
        *has_ended = true;
        Pin::new(stream).poll_shutdown(cx)
    }
}

impl Vm {
    /// Makes a port of the guest reachable at 127.0.0.1; `host_port` 0 picks a free port. A thread
    /// of the forward serves its connections.
    ///
    /// # Errors
    /// Those of [`ForwardBuilder::listen`].
    pub fn expose_tcp(&self, host_port: u16, guest_port: u16) -> Result<Forward, Error> {
        self.blocking().expose_tcp(host_port, guest_port)
    }

    /// Describes a forward, to listen on another address than 127.0.0.1.
    pub fn forward(&self, guest_port: u16) -> ForwardBuilder<'_> {
        self.blocking().forward(guest_port)
    }

    /// Makes a UDP port of the guest reachable at an address of the host, IPv4 or IPv6; its port 0 picks
    /// a free one. A thread of the forward serves its flows. The guest is asked first, so this waits
    /// while the machine is paused.
    ///
    /// # Errors
    /// [`Error::Port`] when the address is in use or not this host's, its port needs rights, the guest's
    /// port is 0, or the snapshot is from a version without UDP ports; [`Error::Guest`] when the guest
    /// has exited.
    pub async fn expose_udp(
        &self,
        host_addr: impl Into<SocketAddr>,
        guest_port: u16,
    ) -> Result<UdpForward, Error> {
        let port = UdpPort::bind(host_addr.into(), guest_port)?;
        let reply = ask(self.blocking().handle(), &port.request()).await;
        port.check(reply.map(|(_, reply)| reply))?;
        port.serve(self.blocking().dialer())
    }

    /// Makes a port of the guest reachable at a socket file, to which only its owner may connect.
    /// It replaces an abandoned socket file, and nothing else.
    ///
    /// # Errors
    /// [`Error::Port`] when the file exists or cannot be created.
    pub fn expose_unix(
        &self,
        path: impl AsRef<Path>,
        guest_port: u16,
    ) -> Result<UnixForward, Error> {
        self.blocking().expose_unix(path, guest_port)
    }

    /// Connects to a port on the guest's loopback interface, without using a port of the host.
    ///
    /// # Errors
    /// [`Error::Port`] with the guest's error, such as
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) when nothing listens there;
    /// [`Error::Guest`] when the guest has exited.
    pub async fn connect(&self, guest_port: u16) -> Result<GuestStream, Error> {
        refuse_zero(guest_port).map_err(|source| Error::Port {
            source: PortError::Guest { port: guest_port, source },
        })?;
        let request = Request::Connect { port: guest_port, framed: false };
        match ask(self.blocking().handle(), &request).await? {
            (stream, Reply::Connected) => Ok(GuestStream { stream, has_ended: false }),
            (_, reply) => Err(refused(guest_port, reply, "connect")),
        }
    }

    /// Makes an address of the host reachable at a port of the guest's loopback interface;
    /// `guest_port` 0 picks a free port. Nothing else of the host becomes reachable.
    ///
    /// This process connects to the address for each connection that the guest makes, and resets
    /// the guest's connection when nothing listens.
    ///
    /// # Errors
    /// [`Error::Port`] when the guest cannot listen there; [`Error::Guest`] when it has exited.
    pub async fn reverse_tcp(
        &self,
        guest_port: u16,
        host_addr: impl Into<SocketAddr>,
    ) -> Result<Reverse, Error> {
        let request = Request::Listen { port: guest_port };
        match ask(self.blocking().handle(), &request).await? {
            (stream, Reply::Listens { port }) => Reverse::start(
                self.blocking().dialer(),
                unregister(stream)?,
                port,
                host_addr.into(),
            ),
            (_, reply) => Err(refused(guest_port, reply, "listen")),
        }
    }
}

fn refused(port: u16, reply: Reply, request: &'static str) -> Error {
    match reply {
        Reply::Failed(failure) => {
            Error::Port { source: PortError::Guest { port, source: cause(&failure) } }
        }
        _ => Error::unexpected(request),
    }
}
