//! A machine's ports.

#[cfg(doc)]
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use super::Vm;
use crate::forward::{self, ForwardBuilder};
use crate::{Error, Forward, GuestStream, Reverse, UdpForward, UnixForward};

impl Vm {
    /// Makes a port of the guest reachable at 127.0.0.1; `host_port` 0 picks a free port. A thread
    /// of the forward serves its connections.
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

    /// Describes a forward, to listen on another address than 127.0.0.1.
    pub fn forward(&self, guest_port: u16) -> ForwardBuilder<'_> {
        ForwardBuilder::new(self.dialer(), guest_port)
    }

    /// Makes a UDP port of the guest reachable at an address of the host, IPv4 or IPv6; its port 0 picks
    /// a free one. A thread of the forward serves its flows. The guest is asked first, so this waits
    /// while the machine is paused.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), supermachine::Error> {
    /// # let vm = supermachine::Image::from_store("snapshots", "dns")?
    /// #     .start(&supermachine::VmConfig::new())?;
    /// let names = vm.expose_udp(([127, 0, 0, 1], 0), 53)?;
    /// println!("dig @127.0.0.1 -p {} example.org", names.local_addr().port());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Port`] when the address is in use or not this host's, its port needs rights, the guest's
    /// port is 0, or the snapshot is from a version without UDP ports; [`Error::Guest`] when the guest
    /// has exited.
    pub fn expose_udp(
        &self,
        host_addr: impl Into<SocketAddr>,
        guest_port: u16,
    ) -> Result<UdpForward, Error> {
        forward::expose(self.handle(), self.dialer(), host_addr.into(), guest_port)
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
        forward::listen_at(self.dialer(), path.as_ref(), guest_port)
    }

    /// Connects to a port on the guest's loopback interface, without using a port of the host.
    ///
    /// # Errors
    /// [`Error::Port`] with the guest's error, such as
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) when nothing listens there;
    /// [`Error::Guest`] when the guest has exited.
    pub fn connect(&self, guest_port: u16) -> Result<GuestStream, Error> {
        forward::connect(self.handle(), guest_port)
    }

    /// Makes an address of the host reachable at a port of the guest's loopback interface;
    /// `guest_port` 0 picks a free port. Nothing else of the host becomes reachable.
    ///
    /// This process connects to the address for each connection that the guest makes, and resets
    /// the guest's connection when nothing listens.
    ///
    /// # Errors
    /// [`Error::Port`] when the guest cannot listen there; [`Error::Guest`] when it has exited.
    pub fn reverse_tcp(
        &self,
        guest_port: u16,
        host_addr: impl Into<SocketAddr>,
    ) -> Result<Reverse, Error> {
        let (stream, port) = forward::listen_in_guest(self.handle(), guest_port)?;
        Reverse::start(self.dialer(), stream, port, host_addr.into())
    }
}
