//! Stream sockets: vsock to the host, and the loopback interface.

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::Result;
use super::fd::Fd;

const HOST: u32 = 2;
const ANY: u32 = u32::MAX;
pub(super) const BACKLOG: i32 = 1024;

/// `sockaddr_vm`, which rustix does not have.
#[repr(C)]
struct VsockAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: u8,
    zero: [u8; 3],
}

impl VsockAddress {
    const SIZE: SocketAddrLen = 16;

    fn new(cid: u32, port: u32) -> Self {
        let family = AddressFamily::VSOCK.as_raw();
        Self { family, reserved: 0, port, cid, flags: 0, zero: [0; 3] }
    }
}

const _: () = assert!(size_of::<VsockAddress>() == VsockAddress::SIZE as usize);

// SAFETY: `f` gets the address of a live structure, and its size.
unsafe impl SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        f(core::ptr::from_ref(self).cast(), Self::SIZE)
    }
}

/// Connects to a port of the host; waits for its answer.
pub(crate) fn connect_to_host(port: u32) -> Result<Fd> {
    let socket = socket(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::empty())?;
    rustix::net::connect(&socket, &VsockAddress::new(HOST, port))?;
    Ok(socket)
}

/// Listens on a vsock port; accepting does not wait.
pub(crate) fn listen(port: u32) -> Result<Fd> {
    let socket = socket(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::NONBLOCK)?;
    rustix::net::bind(&socket, &VsockAddress::new(ANY, port))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Accepts the next connection of a listening socket: `EAGAIN` if there is none.
pub(crate) fn accept(listener: &Fd) -> Result<Fd> {
    let how = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::accept_with(listener, how).map(Fd::from)
}

/// Receives without blocking: `EAGAIN` if there is no data, 0 once the peer has closed.
pub(crate) fn receive(socket: &Fd, buffer: &mut [u8]) -> Result<usize> {
    rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT).map(|(count, _)| count)
}

/// Sends as much as the peer has room for: `EAGAIN` if it has none.
pub(crate) fn send(socket: &Fd, bytes: &[u8]) -> Result<usize> {
    rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
}

/// A new socket, close-on-exec.
pub(super) fn socket(family: AddressFamily, kind: SocketType, how: SocketFlags) -> Result<Fd> {
    rustix::net::socket_with(family, kind, how | SocketFlags::CLOEXEC, None).map(Fd::from)
}
