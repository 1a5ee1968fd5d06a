//! TCP between host and guest: a port of the host that leads into the guest, a stream to a port
//! of the guest, a port of the guest that leads to an address of the host.
//!
//! Owns the guards that an app holds and what stands behind them: one thread each ([`relay`]),
//! which serves all its connections ([`link`]) from a listener of the host ([`listen`]) or of the
//! guest ([`reverse`]). How they find the machine, and lose it, is in [`reach`]. The guest can
//! reach nothing of the host but the addresses that the app names.

mod link;
mod listen;
mod reach;
mod relay;
mod reverse;
mod stream;
mod sys;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use supermachine_formats::wire::{Failure, Message, Reply, Request};

pub(crate) use self::listen::SocketFile;
pub(crate) use self::reach::{Dial, Reach};
use self::relay::Relay;
pub use self::stream::GuestStream;
#[cfg(feature = "tokio")]
pub(crate) use self::stream::told_apart;
pub(crate) use self::sys::{is_hung_up, with_short_path};
use crate::agent::{Line, explain, read_message};
use crate::{Error, Vm};

/// A port of the host that leads to a port of the guest, made by
/// [`Vm::expose_tcp`](crate::Vm::expose_tcp).
///
/// Each connection is connected to the port on the guest's loopback interface. Where nothing
/// listens there, the client finds its connection reset. Each direction ends by itself, as in TCP,
/// and a side that stops reading makes the other one wait.
///
/// It closes when it is dropped: then, and when the machine ends, its connections are reset and
/// the port is free again.
#[derive(Debug)]
pub struct Forward {
    relay: Relay,
    address: SocketAddr,
}

impl Forward {
    /// The address that it listens on, with the port that was picked.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Tells whether it still serves.
    ///
    /// # Errors
    /// [`Error::ForwardClosed`] when the machine has ended.
    pub fn check(&self) -> Result<(), Error> {
        check(&self.relay, || self.address.to_string())
    }

    /// Closes it and its connections.
    ///
    /// # Errors
    /// [`Error::ForwardClosed`] when the machine had ended before.
    pub fn close(self) -> Result<(), Error> {
        self.check()
    }
}

/// A socket file of the host that leads to a port of the guest, made by
/// [`Vm::expose_unix`](crate::Vm::expose_unix). Only the file's owner may connect. It serves and
/// closes like a [`Forward`], and the file goes with it.
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

    /// Tells whether it still serves.
    ///
    /// # Errors
    /// [`Error::ForwardClosed`] when the machine has ended.
    pub fn check(&self) -> Result<(), Error> {
        check(&self.relay, || self.path.display().to_string())
    }

    /// Closes it and its connections.
    ///
    /// # Errors
    /// [`Error::ForwardClosed`] when the machine had ended before.
    pub fn close(self) -> Result<(), Error> {
        self.check()
    }
}

/// A port of the guest that leads to an address of the host, made by
/// [`Vm::reverse_tcp`](crate::Vm::reverse_tcp). Programs in the guest find it on their loopback
/// interface. It serves and closes like a [`Forward`].
#[derive(Debug)]
pub struct Reverse {
    relay: Relay,
    guest_port: u16,
}

impl Reverse {
    /// Serves a listener of the guest, which tells of its connections on `stream`.
    pub(crate) fn start(
        vm: &Vm,
        stream: UnixStream,
        port: u16,
        target: SocketAddr,
    ) -> Result<Self, Error> {
        let source = reverse::Guest::new(stream, target);
        let relay = Relay::start(Box::new(source), vm.reach())
            .map_err(|source| Error::GuestPort { port, source })?;
        Ok(Self { relay, guest_port: port })
    }

    /// The port in the guest, with the one that was picked.
    #[must_use]
    pub fn guest_port(&self) -> u16 {
        self.guest_port
    }

    /// Tells whether it still serves.
    ///
    /// # Errors
    /// [`Error::ForwardClosed`] when the machine has ended.
    pub fn check(&self) -> Result<(), Error> {
        check(&self.relay, || format!("the guest's port {}", self.guest_port))
    }

    /// Closes it and its connections.
    ///
    /// # Errors
    /// [`Error::ForwardClosed`] when the machine had ended before.
    pub fn close(self) -> Result<(), Error> {
        self.check()
    }
}

/// A [`Forward`] to be, made by [`Vm::forward`](crate::Vm::forward).
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
    vm: &'a Vm,
    guest_port: u16,
    address: SocketAddr,
}

impl ForwardBuilder<'_> {
    /// Listens on this address, IPv4 or IPv6; port 0 has the system pick one. Unless it is
    /// called, that is a port of 127.0.0.1 that the system picks.
    pub fn bind(mut self, address: impl Into<SocketAddr>) -> Self {
        self.address = address.into();
        self
    }

    /// Begins to listen.
    ///
    /// # Errors
    /// [`Error::Listen`] when the address is in use, is not this host's, or its port needs
    /// rights; the guest's port is 0.
    pub fn listen(self) -> Result<Forward, Error> {
        let error = |source| Error::Listen { address: self.address.to_string(), source };
        let source = refuse_zero(self.guest_port)
            .and_then(|()| listen::Tcp::bind(self.address, self.guest_port))
            .map_err(error)?;
        let address = source.local_addr().map_err(error)?;
        let relay = Relay::start(Box::new(source), self.vm.reach()).map_err(error)?;
        Ok(Forward { relay, address })
    }
}

impl Vm {
    /// Makes a port of the guest reachable at 127.0.0.1; `host_port` 0 has the system pick one.
    /// The connections are served by a thread of the forward's own.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), supermachine::Error> {
    /// # let vm = supermachine::Image::from_store("snapshots", "nginx")?
    /// #     .start(&supermachine::VmConfig::new())?;
    /// let web = vm.expose_tcp(8080, 80)?;
    /// // http://127.0.0.1:8080/ answers until `web` is dropped.
    /// # drop(web);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`ForwardBuilder::listen`].
    pub fn expose_tcp(&self, host_port: u16, guest_port: u16) -> Result<Forward, Error> {
        self.forward(guest_port).bind((Ipv4Addr::LOCALHOST, host_port)).listen()
    }

    /// Begins to describe a forward, for another address than 127.0.0.1.
    pub fn forward(&self, guest_port: u16) -> ForwardBuilder<'_> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        ForwardBuilder { vm: self, guest_port, address }
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
        let path = path.as_ref();
        let error = |source| Error::Listen { address: path.display().to_string(), source };
        let source = refuse_zero(guest_port)
            .and_then(|()| listen::File::bind(path, guest_port))
            .map_err(error)?;
        let relay = Relay::start(Box::new(source), self.reach()).map_err(error)?;
        Ok(UnixForward { relay, path: path.to_owned() })
    }

    /// Connects to a port on the guest's loopback interface, without a port of the host.
    ///
    /// # Errors
    /// [`Error::GuestPort`] with the guest's reason, such as
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) when nothing listens there, or the
    /// guest has ended.
    pub fn connect(&self, guest_port: u16) -> Result<GuestStream, Error> {
        refuse_zero(guest_port).map_err(|source| Error::GuestPort { port: guest_port, source })?;
        let request = Request::Connect { port: guest_port, framed: false };
        match self.begin(guest_port, &request)? {
            (stream, Reply::Connected) => Ok(GuestStream::new(stream)),
            _ => Err(Error::UnexpectedReply { request: "connect" }),
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
    pub fn reverse_tcp(
        &self,
        guest_port: u16,
        host_addr: impl Into<SocketAddr>,
    ) -> Result<Reverse, Error> {
        let (stream, port) = match self.begin(guest_port, &Request::Listen { port: guest_port })? {
            (stream, Reply::Listens { port }) => (stream, port),
            _ => return Err(Error::UnexpectedReply { request: "listen" }),
        };
        Reverse::start(self, stream, port, host_addr.into())
    }

    /// Opens a stream for a request, and waits for its first reply.
    fn begin(&self, port: u16, request: &Request) -> Result<(UnixStream, Reply), Error> {
        let Line { mut stream, witness } = self.dial(&request.to_frame())?;
        match read_message(&mut stream, None) {
            Ok(Reply::Failed(failure)) => Err(Error::GuestPort { port, source: cause(&failure) }),
            Ok(reply) => Ok((stream, reply)),
            Err(Error::AgentGone | Error::Stream { .. }) => Err(explain(&witness)),
            Err(error) => Err(error),
        }
    }
}

fn check(relay: &Relay, address: impl Fn() -> String) -> Result<(), Error> {
    if relay.has_ended() { Err(Error::ForwardClosed { address: address() }) } else { Ok(()) }
}

/// Port 0 has a meaning for listeners alone.
pub(crate) fn refuse_zero(guest_port: u16) -> io::Result<()> {
    if guest_port == 0 { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
}

/// The guest's error number, which is Linux's.
pub(crate) fn cause(failure: &Failure) -> io::Error {
    io::Error::from_raw_os_error(failure.errno.into())
}
