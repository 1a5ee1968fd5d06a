//! TCP connections of the guest, carried on streams of the host.
//!
//! Owns the tables of connections and listeners. A stream moves here with its request, and stays.
//! [`connection`] moves the bytes of one connection, and closes it. Memory is bounded: a piece in each direction of a connection, and
//! [`WAITING`] accepted sockets of a listener.

mod connection;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;

use supermachine_formats::wire::{Reply, Request};

use self::connection::{ALL, Connection, Outcome};
use super::slab::{Key, Slab};
use super::stream::{Stream, refuse};
use super::token::{Side, Token};
use crate::failure::failure;
use crate::link::{Inbox, Outbox};
use crate::sys::fd::Fd;
use crate::sys::poll::{EDGES, Epoll, EventFlags, READABLE};
use crate::sys::tcp::{self, Loopback};
use crate::sys::{Errno, Result, socket};

/// The most accepted connections of a listener that the host has not picked up.
const WAITING: usize = 128;

/// A port that the agent listens on for the host.
#[derive(Debug)]
struct Listener {
    stream: Fd,
    outbox: Outbox,
    sockets: Vec<Fd>,
    waiting: VecDeque<(u32, Fd)>,
}

/// All connections and listeners. See the module.
#[derive(Debug)]
pub(super) struct Tcp {
    connections: Slab<Connection>,
    listeners: Slab<Listener>,
    /// The number of the next connection that a listener accepts.
    next: u32,
    /// A listener could not accept for lack of descriptors or memory.
    is_starved: bool,
}

impl Tcp {
    pub(super) fn new() -> Self {
        Self { connections: Slab::new(), listeners: Slab::new(), next: 0, is_starved: false }
    }

    /// Whether this module serves a request.
    pub(super) fn takes(request: &Request) -> bool {
        matches!(request, Request::Connect { .. } | Request::Listen { .. } | Request::Accept { .. })
    }

    /// Serves a stream from its request on.
    pub(super) fn open(
        &mut self,
        request: &Request,
        stream: Stream,
        epoll: &Epoll,
        scratch: &mut [u8],
    ) {
        let (stream, inbox, is_watched) = stream.into_parts();
        if is_watched && epoll.remove(&stream).is_err() {
            return;
        }
        match *request {
            Request::Connect { port, framed } => {
                self.connect(port, (stream, inbox, framed), epoll, scratch);
            }
            Request::Listen { port } => self.listen(port, stream, epoll),
            Request::Accept { connection } => {
                self.pick_up(connection, (stream, inbox), epoll, scratch);
            }
            _ => {}
        }
    }

    /// Closes every listener, as their streams no longer exist after a restore.
    pub(super) fn close_listeners(&mut self) {
        let keys: Vec<Key> = self.listeners.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(listener) = self.listeners.take(key) {
                listener.reset_waiting();
            }
            self.listeners.put(key, None);
        }
    }

    /// Handles an event of a connection.
    pub(super) fn serve(
        &mut self,
        key: Key,
        (side, events): (Side, EventFlags),
        epoll: &Epoll,
        scratch: &mut [u8],
    ) {
        let Some(mut connection) = self.connections.take(key) else { return };
        connection.hear(side, events);
        self.advance(key, connection, epoll, scratch);
    }

    /// Handles an event of a listener.
    pub(super) fn serve_listener(&mut self, key: Key, side: Side, scratch: &mut [u8]) {
        let Some(listener) = self.listeners.take(key) else { return };
        let alive = match side {
            Side::Guest => true,
            Side::Host => listener.is_wanted(scratch),
        };
        if alive {
            self.accept_into(key, listener);
        } else {
            listener.reset_waiting();
            self.listeners.put(key, None);
        }
    }

    fn connect(
        &mut self,
        port: u16,
        (stream, inbox, framed): (Fd, Inbox, bool),
        epoll: &Epoll,
        scratch: &mut [u8],
    ) {
        let attempt = tcp::connect(Loopback::V4, port)
            .or_else(|errno| tcp::connect(Loopback::V6, port).map_err(|_| errno));
        match attempt {
            Ok((socket, is_connected)) => {
                let connection = Connection::new(stream, socket, inbox, framed);
                let attempt = (!is_connected).then_some(port);
                self.begin(connection, attempt, epoll, scratch);
            }
            Err(errno) => refuse(&stream, failure("connect", format!("port {port}"), errno)),
        }
    }

    fn pick_up(
        &mut self,
        number: u32,
        (stream, inbox): (Fd, Inbox),
        epoll: &Epoll,
        scratch: &mut [u8],
    ) {
        let holds = |listener: &Listener| listener.waiting.iter().any(|(held, _)| *held == number);
        let holder = self.listeners.iter().find(|(_, listener)| holds(listener));
        let holder = holder.map(|(key, _)| key);
        let taken = holder.and_then(|key| Some((key, self.listeners.take(key)?)));
        let Some((key, mut listener)) = taken else {
            let subject = format!("connection {number}");
            return refuse(&stream, failure("find", subject, Errno::NOENT));
        };
        let place = listener.waiting.iter().position(|(held, _)| *held == number);
        let socket = place.and_then(|place| listener.waiting.remove(place));
        // There is room for another one.
        self.accept_into(key, listener);
        if let Some((_, socket)) = socket {
            self.begin(Connection::new(stream, socket, inbox, true), None, epoll, scratch);
        }
    }

    /// Adds a connection, and makes as much progress as possible.
    fn begin(
        &mut self,
        mut connection: Connection,
        attempt: Option<u16>,
        epoll: &Epoll,
        scratch: &mut [u8],
    ) {
        let key = self.connections.reserve();
        for (side, fd) in connection.descriptors() {
            if epoll.add(fd, ALL, Token::Tcp(key, side).pack()).is_err() {
                return self.connections.put(key, None);
            }
        }
        match attempt {
            None => connection.begin(),
            Some(port) => connection.await_attempt(port),
        }
        self.advance(key, connection, epoll, scratch);
    }

    /// Makes progress on a connection, and puts it back unless it is done.
    fn advance(&mut self, key: Key, mut connection: Connection, epoll: &Epoll, scratch: &mut [u8]) {
        let continues = match connection.advance(scratch) {
            Outcome::Waits => true,
            Outcome::Yields => connection.rearm(epoll, Token::Tcp(key, Side::Host).pack()).is_ok(),
            Outcome::Closed => false,
            Outcome::Broken => {
                connection.reset_guest();
                false
            }
        };
        self.connections.put(key, continues.then_some(connection));
        if !continues && self.is_starved {
            self.accept_all();
        }
    }

    fn listen(&mut self, port: u16, stream: Fd, epoll: &Epoll) {
        let (port, sockets) = match listen(port) {
            Ok(listening) => listening,
            Err(errno) => {
                return refuse(&stream, failure("listen", format!("port {port}"), errno));
            }
        };
        let (mut outbox, waiting) = (Outbox::default(), VecDeque::new());
        outbox.push(&Reply::Listens { port });
        let listener = Listener { stream, outbox, sockets, waiting };
        let key = self.listeners.reserve();
        match listener.watch(epoll, key) {
            Ok(()) => self.accept_into(key, listener),
            Err(_) => self.listeners.put(key, None),
        }
    }

    /// Accepts pending connections of a listener, and puts it back if its stream is open.
    fn accept_into(&mut self, key: Key, mut listener: Listener) {
        let alive = self.accept(&mut listener);
        if !alive {
            listener.reset_waiting();
        }
        self.listeners.put(key, alive.then_some(listener));
    }

    /// Accepts connections while there is room, and reports them to the host. Returns `false` once the
    /// stream is closed.
    fn accept(&mut self, listener: &mut Listener) -> bool {
        for socket in &listener.sockets {
            while listener.waiting.len() < WAITING && !listener.outbox.is_full() {
                match socket::accept(socket) {
                    Ok(accepted) => {
                        let number = self.next;
                        self.next = number.wrapping_add(1);
                        listener.waiting.push_back((number, accepted));
                        listener.outbox.push(&Reply::Accepted { connection: number });
                    }
                    Err(Errno::INTR | Errno::CONNABORTED) => {}
                    Err(Errno::AGAIN) => break,
                    Err(_) => {
                        self.is_starved = true;
                        break;
                    }
                }
            }
        }
        listener.outbox.flush(&listener.stream).is_ok()
    }

    /// Retries listeners that lacked descriptors or memory.
    fn accept_all(&mut self) {
        self.is_starved = false;
        let keys: Vec<Key> = self.listeners.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(listener) = self.listeners.take(key) {
                self.accept_into(key, listener);
            }
        }
    }
}

impl Listener {
    fn watch(&self, epoll: &Epoll, key: Key) -> Result<()> {
        epoll.add(&self.stream, ALL, Token::TcpListener(key, Side::Host).pack())?;
        let token = Token::TcpListener(key, Side::Guest).pack();
        self.sockets.iter().try_for_each(|socket| epoll.add(socket, READABLE | EDGES, token))
    }

    /// Whether the host still holds the stream. It sends nothing on it.
    fn is_wanted(&self, scratch: &mut [u8]) -> bool {
        loop {
            match socket::receive(&self.stream, scratch) {
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => return false,
            }
        }
    }

    /// Makes the drop of unclaimed connections reset them.
    fn reset_waiting(&self) {
        for (_, socket) in &self.waiting {
            let _ = tcp::reset_on_close(socket);
        }
    }
}

/// Listens on both loopback addresses, or on the first if there is no second.
fn listen(port: u16) -> Result<(u16, Vec<Fd>)> {
    let first = tcp::listen(Loopback::V4, port)?;
    let port = tcp::port(&first)?;
    let mut sockets = alloc::vec![first];
    match tcp::listen(Loopback::V6, port) {
        Ok(second) => sockets.push(second),
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {}
        Err(errno) => return Err(errno),
    }
    Ok((port, sockets))
}
