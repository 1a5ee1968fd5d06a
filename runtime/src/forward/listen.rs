//! Listeners of the host: TCP addresses and socket files.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use supermachine_formats::wire::Request;

use super::relay::{Arrival, Source};
use crate::os::{self, SocketFile};

/// Connections to an address, for a port of the guest.
#[derive(Debug)]
pub(super) struct Tcp {
    listener: TcpListener,
    guest_port: u16,
}

impl Tcp {
    pub(super) fn bind(address: SocketAddr, guest_port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        os::widen_backlog(&listener)?;
        Ok(Self { listener, guest_port })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Source for Tcp {
    fn descriptor(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    fn next(&mut self) -> io::Result<Arrival> {
        let (client, _) = self.listener.accept()?;
        // Without it, the connection is only slower.
        let _ = client.set_nodelay(true);
        Ok(arrival(client.into(), self.guest_port))
    }
}

/// Connections to a socket file, for a port of the guest.
#[derive(Debug)]
pub(super) struct File {
    socket: SocketFile,
    guest_port: u16,
}

impl File {
    pub(super) fn bind(path: &Path, guest_port: u16) -> io::Result<Self> {
        Ok(Self { socket: SocketFile::bind(path)?, guest_port })
    }
}

impl Source for File {
    fn descriptor(&self) -> RawFd {
        self.socket.listener().as_raw_fd()
    }

    fn next(&mut self) -> io::Result<Arrival> {
        let (client, _) = self.socket.listener().accept()?;
        Ok(arrival(client.into(), self.guest_port))
    }
}

fn arrival(client: std::os::fd::OwnedFd, port: u16) -> Arrival {
    let request = Request::Connect { port, framed: true };
    Arrival { client: Some(client), request, is_connecting: false }
}
