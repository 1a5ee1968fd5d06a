//! TCP between host and guest, awaited. Forwards serve in the background by themselves, so they
//! are those of the blocking interface.

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
use crate::forward::{cause, refuse_zero, told_apart};
use crate::{Error, Forward, ForwardBuilder, Reverse, UnixForward};

/// A connection to a TCP port in the guest, made by [`Vm::connect`]. It behaves like a
/// `tokio::net::TcpStream`, and needs no port of the host.
///
/// Reading gives [`ConnectionReset`](io::ErrorKind::ConnectionReset) when the guest resets the
/// connection or ends, but for one case: once this side has ended its bytes by a shutdown, a reset
/// looks like the end of the guest's.
#[derive(Debug)]
pub struct GuestStream {
    stream: UnixStream,
    /// Whether this side has ended its bytes.
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
    /// Makes a port of the guest reachable at 127.0.0.1; `host_port` 0 has the system pick one.
    /// The connections are served by a thread of the forward's own.
    ///
    /// # Errors
    /// Those of [`ForwardBuilder::listen`].
    pub fn expose_tcp(&self, host_port: u16, guest_port: u16) -> Result<Forward, Error> {
        self.blocking().expose_tcp(host_port, guest_port)
    }

    /// Begins to describe a forward, for another address than 127.0.0.1.
    pub fn forward(&self, guest_port: u16) -> ForwardBuilder<'_> {
        self.blocking().forward(guest_port)
    }

    /// Makes a port of the guest reachable at a socket file, which only its owner may connect
    /// to. A socket file that nobody listens on is replaced, anything else is not.
    ///
    /// # Errors
    /// [`Error::Listen`] when the file is there or cannot be made.
    pub fn expose_unix(
        &self,
        path: impl AsRef<Path>,
        guest_port: u16,
    ) -> Result<UnixForward, Error> {
        self.blocking().expose_unix(path, guest_port)
    }

    /// Connects to a port on the guest's loopback interface, without a port of the host.
    ///
    /// # Errors
    /// [`Error::GuestPort`] with the guest's reason, such as
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) when nothing listens there, or the
    /// guest has ended.
    pub async fn connect(&self, guest_port: u16) -> Result<GuestStream, Error> {
        refuse_zero(guest_port).map_err(|source| Error::GuestPort { port: guest_port, source })?;
        let request = Request::Connect { port: guest_port, framed: false };
        match ask(self.blocking(), &request).await? {
            (stream, Reply::Connected) => Ok(GuestStream { stream, has_ended: false }),
            (_, reply) => Err(refused(guest_port, reply, "connect")),
        }
    }

    /// Makes an address of the host reachable at a port of the guest's loopback interface;
    /// `guest_port` 0 has the guest pick one. Nothing else of the host becomes reachable.
    ///
    /// The address is connected to from this process, for each connection that the guest makes.
    /// Where nothing listens, the guest finds its connection reset.
    ///
    /// # Errors
    /// [`Error::GuestPort`] when the guest cannot listen there, or the guest has ended.
    pub async fn reverse_tcp(
        &self,
        guest_port: u16,
        host_addr: impl Into<SocketAddr>,
    ) -> Result<Reverse, Error> {
        let request = Request::Listen { port: guest_port };
        match ask(self.blocking(), &request).await? {
            (stream, Reply::Listens { port }) => {
                Reverse::start(self.blocking(), unregister(stream)?, port, host_addr.into())
            }
            (_, reply) => Err(refused(guest_port, reply, "listen")),
        }
    }
}

fn refused(port: u16, reply: Reply, request: &'static str) -> Error {
    match reply {
        Reply::Failed(failure) => Error::GuestPort { port, source: cause(&failure) },
        _ => Error::UnexpectedReply { request },
    }
}
