//! Stream sockets: vsock to the host, and the loopback interface.

use linux_raw_sys::general as nr;
use linux_raw_sys::net::{AF_INET, AF_VSOCK, MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_DGRAM, SOCK_STREAM};

use super::fd::{Fd, ioctl};
use super::{Result, call, flags};

const HOST: u32 = 2;
const ANY: u32 = u32::MAX;
const BACKLOG: usize = 1024;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const IFF_UP: u16 = 1;

#[repr(C)]
struct VsockAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: u8,
    zero: [u8; 3],
}

#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

impl VsockAddress {
    fn new(cid: u32, port: u32) -> Self {
        let family = u16::try_from(AF_VSOCK).unwrap_or(0);
        Self { family, reserved: 0, port, cid, flags: 0, zero: [0; 3] }
    }

    fn on(&self, call_number: u32, socket: &Fd) -> Result<()> {
        let address = core::ptr::from_ref(self) as usize;
        let arguments = [socket.register(), address, size_of::<Self>(), 0, 0, 0];
        // SAFETY: `bind` and `connect` read one address of this size.
        unsafe { call(call_number, arguments) }.map(drop)
    }
}

/// Connects to a port of the host; waits for its answer.
pub(crate) fn connect_to_host(port: u32) -> Result<Fd> {
    let socket = socket(AF_VSOCK, SOCK_STREAM)?;
    VsockAddress::new(HOST, port).on(nr::__NR_connect, &socket)?;
    Ok(socket)
}

/// Listens on a vsock port; accepting does not wait.
pub(crate) fn listen(port: u32) -> Result<Fd> {
    let socket = socket(AF_VSOCK, SOCK_STREAM | nr::O_NONBLOCK)?;
    VsockAddress::new(ANY, port).on(nr::__NR_bind, &socket)?;
    // SAFETY: no memory is involved.
    unsafe { call(nr::__NR_listen, [socket.register(), BACKLOG, 0, 0, 0, 0]) }?;
    Ok(socket)
}

/// Accepts the next connection of a listening socket: `EAGAIN` if there is none.
pub(crate) fn accept(listener: &Fd) -> Result<Fd> {
    let how = flags(nr::O_CLOEXEC | nr::O_NONBLOCK);
    // SAFETY: no address is asked for.
    unsafe { call(nr::__NR_accept4, [listener.register(), 0, 0, how, 0, 0]) }.map(Fd::adopt)
}

/// Receives without blocking: `EAGAIN` if there is no data, 0 once the peer has closed.
pub(crate) fn receive(socket: &Fd, buffer: &mut [u8]) -> Result<usize> {
    let address = buffer.as_mut_ptr() as usize;
    let arguments = [socket.register(), address, buffer.len(), flags(MSG_DONTWAIT), 0, 0];
    // SAFETY: the kernel writes at most the buffer's length into it.
    unsafe { call(nr::__NR_recvfrom, arguments) }
}

/// Sends as much as the peer has room for: `EAGAIN` if it has none.
pub(crate) fn send(socket: &Fd, bytes: &[u8]) -> Result<usize> {
    let how = flags(MSG_DONTWAIT | MSG_NOSIGNAL);
    let arguments = [socket.register(), bytes.as_ptr() as usize, bytes.len(), how, 0, 0];
    // SAFETY: the kernel only reads the slice.
    unsafe { call(nr::__NR_sendto, arguments) }
}

/// Sets the loopback interface up. The kernel gives it 127.0.0.1 and ::1 by itself.
pub(crate) fn loopback_up() -> Result<()> {
    let socket = socket(AF_INET, SOCK_DGRAM)?;
    let mut request = InterfaceRequest { name: [0; 16], flags: 0, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    ioctl(&socket, SIOCGIFFLAGS, &mut request)?;
    request.flags |= IFF_UP;
    ioctl(&socket, SIOCSIFFLAGS, &mut request)
}

pub(super) fn socket(family: u32, kind: u32) -> Result<Fd> {
    let kind = flags(kind | nr::O_CLOEXEC);
    // SAFETY: no memory is involved.
    unsafe { call(nr::__NR_socket, [flags(family), kind, 0, 0, 0, 0]) }.map(Fd::adopt)
}
