//! One connection of the guest: a socket of smoltcp, one of the host, and the bytes in between.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as Time;
use socket2::SockRef;

use super::guest_link::{GuestLink, Wire};
use crate::packet::{Unreachable, read_packet};

/// The buffer of each direction while there are few connections.
const LARGE_BUFFER: usize = 256 << 10;
/// The same while there are many.
const SMALL_BUFFER: usize = 64 << 10;
/// Connections with large buffers.
const FEW: usize = 128;

/// The two ends of a flow, as the guest sees them.
pub(super) type Key = (SocketAddr, SocketAddr);

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: Key,
    stream: TcpStream,
    stage: Stage,
    /// When smoltcp has something to do.
    pub(super) deadline: Option<Instant>,
}

#[derive(Debug)]
enum Stage {
    /// The host connects. Holds the guest's packet that asked for it.
    Connecting { request: Vec<u8> },
    /// Both ends are there.
    Open(Box<Open>),
}

#[derive(Debug)]
struct Open {
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// The host's socket may have input.
    is_readable: bool,
    /// The host's socket may have room.
    is_writable: bool,
    /// The host will send nothing more.
    host_ended: bool,
    /// The host knows that the guest will send nothing more.
    guest_ended: bool,
    /// The host's socket is broken.
    is_broken: bool,
}

/// What smoltcp needs to work on a connection.
pub(super) struct Context<'a> {
    pub(super) interface: &'a mut Interface,
    pub(super) link: &'a mut GuestLink,
    pub(super) start: Instant,
}

/// Whether a connection continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Continue,
    Remove,
}

impl Connection {
    /// Begins to connect to `target`, for the guest's request.
    ///
    /// # Errors
    /// The host refuses at once.
    pub(super) fn begin(
        key: Key,
        target: SocketAddr,
        request: &[u8],
        (registry, token): (&Registry, Token),
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(target)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let stage = Stage::Connecting { request: request.to_vec() };
        Ok(Self { key, stream, stage, deadline: None })
    }

    /// Takes a packet of the guest.
    pub(super) fn take(&mut self, packet: &[u8], context: &mut Context<'_>) -> Next {
        match &mut self.stage {
            Stage::Connecting { request } => {
                // It asks again, perhaps for another connection from the same port.
                let again = read_packet(packet).and_then(|packet| packet.segment());
                if again.is_some_and(|segment| segment.is_first) {
                    packet.clone_into(request);
                    return Next::Continue;
                }
                let is_reset = again.is_some_and(|segment| segment.is_reset);
                if is_reset { Next::Remove } else { Next::Continue }
            }
            Stage::Open(open) => {
                context.poll(&mut open.sockets, Some(packet));
                self.serve(context)
            }
        }
    }

    /// Takes an event of the host's socket. `count` is that of all connections.
    pub(super) fn ready(&mut self, event: &Event, count: usize, context: &mut Context<'_>) -> Next {
        if let Stage::Connecting { request } = &mut self.stage {
            match connected(&self.stream) {
                Ok(false) => return Next::Continue,
                Ok(true) => {
                    let request = std::mem::take(request);
                    let Some(open) = Open::accept(self.key.1, &request, count, context) else {
                        return Next::Remove;
                    };
                    self.stage = Stage::Open(Box::new(open));
                }
                Err(error) => {
                    fail(request, &error, context);
                    return Next::Remove;
                }
            }
        }
        if let Stage::Open(open) = &mut self.stage {
            open.is_readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            open.is_writable |= event.is_writable() || event.is_write_closed() || event.is_error();
        }
        self.serve(context)
    }

    /// Moves bytes both ways, as far as they go.
    pub(super) fn serve(&mut self, context: &mut Context<'_>) -> Next {
        let Stage::Open(open) = &mut self.stage else { return Next::Continue };
        loop {
            let moved = open.pass_to_host(&self.stream) | open.pass_to_guest(&self.stream);
            if open.is_broken {
                open.sockets.get_mut::<Socket<'_>>(open.handle).abort();
            }
            context.poll(&mut open.sockets, None);
            if !moved || open.is_broken {
                break;
            }
        }
        if is_over(open.sockets.get(open.handle)) {
            if !(open.host_ended && open.guest_ended) {
                reset(&self.stream);
            }
            return Next::Remove;
        }
        self.deadline = context.deadline(&open.sockets);
        Next::Continue
    }

    /// Closes the host's end at once.
    pub(super) fn abandon(&self) {
        reset(&self.stream);
    }
}

impl Open {
    /// Accepts the guest's connection.
    fn accept(
        to: SocketAddr,
        request: &[u8],
        count: usize,
        context: &mut Context<'_>,
    ) -> Option<Self> {
        let size = if count <= FEW { LARGE_BUFFER } else { SMALL_BUFFER };
        let (sockets, handle) = accept(to, request, size, context)?;
        Some(Self {
            sockets,
            handle,
            is_readable: true,
            is_writable: true,
            host_ended: false,
            guest_ended: false,
            is_broken: false,
        })
    }

    /// Passes the guest's bytes on, and their end. Returns whether there were some.
    fn pass_to_host(&mut self, mut stream: &TcpStream) -> bool {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        let mut moved = false;
        while self.is_writable && socket.can_recv() {
            let written = socket.recv(|bytes| match stream.write(bytes) {
                Ok(count) => (count, Ok(())),
                Err(error) => (0, Err(error)),
            });
            match written {
                Ok(Ok(())) => moved = true,
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => self.is_writable = false,
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(_)) | Err(_) => {
                    self.is_broken = true;
                    return false;
                }
            }
        }
        let has_ended = matches!(
            socket.state(),
            State::CloseWait | State::Closing | State::LastAck | State::TimeWait
        );
        if has_ended && !socket.can_recv() && !self.guest_ended {
            self.guest_ended = true;
            // The host may have closed it already.
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        moved
    }

    /// Passes the host's bytes on, and their end. Returns whether there were some.
    fn pass_to_guest(&mut self, mut stream: &TcpStream) -> bool {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        let mut moved = false;
        while self.is_readable && !self.host_ended && socket.can_send() {
            let read = socket.send(|room| match stream.read(room) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error)),
            });
            match read {
                Ok(Ok(0)) => {
                    self.host_ended = true;
                    socket.close();
                    moved = true;
                }
                Ok(Ok(_)) => moved = true,
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => self.is_readable = false,
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(_)) | Err(_) => {
                    self.is_broken = true;
                    return false;
                }
            }
        }
        moved
    }
}

impl Context<'_> {
    /// Has smoltcp take a packet, and send what there is to send.
    pub(super) fn poll(&mut self, sockets: &mut SocketSet<'static>, packet: Option<&[u8]>) {
        let now = self.now();
        let mut wire = Wire { link: self.link, packet };
        self.interface.poll(now, &mut wire, sockets);
    }

    /// When smoltcp has something to do.
    pub(super) fn deadline(&mut self, sockets: &SocketSet<'static>) -> Option<Instant> {
        let now = self.now();
        let at = self.interface.poll_at(now, sockets)?;
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        self.start.checked_add(std::time::Duration::from_micros(micros))
    }

    fn now(&self) -> Time {
        let micros = self.start.elapsed().as_micros();
        Time::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

/// Accepts the connection that a packet asks for, with buffers of this size.
pub(super) fn accept(
    to: SocketAddr,
    request: &[u8],
    size: usize,
    context: &mut Context<'_>,
) -> Option<(SocketSet<'static>, SocketHandle)> {
    let buffer = || SocketBuffer::new(vec![0; size]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket.listen(to).ok()?;
    let mut sockets = SocketSet::new(Vec::with_capacity(1));
    let handle = sockets.add(socket);
    context.poll(&mut sockets, Some(request));
    let is_accepted = sockets.get::<Socket<'_>>(handle).state() != State::Listen;
    is_accepted.then_some((sockets, handle))
}

/// Whether a socket has nothing more to send, not even a reset, or has sent its last answer: the link
/// loses nothing.
pub(super) fn is_over(socket: &Socket<'_>) -> bool {
    match socket.state() {
        State::Closed => socket.remote_endpoint().is_none(),
        state => state == State::TimeWait,
    }
}

/// Whether a stream that was begun is connected.
fn connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Tells the guest why its request fails.
pub(super) fn fail(request: &[u8], error: &io::Error, context: &mut Context<'_>) {
    if error.kind() == ErrorKind::ConnectionRefused || error.kind() == ErrorKind::ConnectionReset {
        // Nothing accepts it, so smoltcp resets it.
        context.poll(&mut SocketSet::new(Vec::new()), Some(request));
    } else if let Some(error) = read_packet(request).and_then(|p| p.error(Unreachable::NoWay)) {
        context.link.send_packet(&error);
    }
}

/// Has the host's peer find the connection reset, not ended, once the stream is closed.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}
