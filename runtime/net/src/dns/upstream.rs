//! A question on its way to a name server: in a datagram, or over a connection of its own.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};

/// The longest answer in a datagram.
const MAX_DATAGRAM: usize = 4096;
/// The bytes that one look at a connection reads at once.
const PIECE: usize = 4096;
/// A message's length, in front of it on a connection.
pub(crate) const LENGTH: usize = 2;

/// How a question travels.
#[derive(Debug)]
pub(super) enum Upstream {
    Datagram(UdpSocket),
    Connection(Box<Connection>),
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// The question, as far as it is not sent.
    outbox: Vec<u8>,
    /// The answer, as far as it has arrived.
    inbox: Vec<u8>,
}

impl Upstream {
    /// Sends a question in a datagram.
    ///
    /// # Errors
    /// The host has no descriptors left, or no way to the server.
    pub(super) fn datagram(
        server: SocketAddr,
        message: &[u8],
        (registry, token): (&Registry, Token),
    ) -> io::Result<Self> {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut socket = UdpSocket::bind((any, 0).into())?;
        socket.connect(server)?;
        socket.send(message)?;
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Self::Datagram(socket))
    }

    /// Begins to send a question over a connection.
    ///
    /// # Errors
    /// The host has no descriptors left, or no way to the server.
    pub(super) fn connection(
        server: SocketAddr,
        message: &[u8],
        (registry, token): (&Registry, Token),
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(server)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let outbox = framed(message).ok_or(ErrorKind::InvalidInput)?;
        Ok(Self::Connection(Box::new(Connection { stream, outbox, inbox: Vec::new() })))
    }

    /// Goes on after an event, and returns a message that has arrived.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] if there is none yet, another if there will be none.
    pub(super) fn receive(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Datagram(socket) => {
                let mut buffer = vec![0; MAX_DATAGRAM];
                let length = retried(|| socket.recv(&mut buffer))?;
                buffer.truncate(length);
                Ok(buffer)
            }
            Self::Connection(connection) => connection.receive(),
        }
    }
}

impl Connection {
    fn receive(&mut self) -> io::Result<Vec<u8>> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        while !self.outbox.is_empty() {
            let sent = retried(|| (&self.stream).write(&self.outbox)).map_err(unless_connecting)?;
            self.outbox.drain(..sent);
        }
        let mut piece = [0; PIECE];
        loop {
            if let Some(message) = first_message(&self.inbox) {
                return Ok(message.to_vec());
            }
            match retried(|| (&self.stream).read(&mut piece))? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => self.inbox.extend(piece.split_at(count).0),
            }
        }
    }
}

/// A message with its length in front of it; `None` if it is too long for that.
pub(crate) fn framed(message: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(message.len()).ok()?;
    Some([&length.to_be_bytes()[..], message].concat())
}

/// The first message of a connection, if it has arrived whole.
pub(crate) fn first_message(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    rest.get(..u16::from_be_bytes(*length).into())
}

fn unless_connecting(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::NotConnected => ErrorKind::WouldBlock.into(),
        _ => error,
    }
}

fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_taken_once_it_is_whole() {
        let bytes = framed(b"abc").unwrap();
        assert_eq!(first_message(&bytes), Some(&b"abc"[..]));
        assert_eq!(first_message(&bytes[..4]), None);
        assert_eq!(first_message(&bytes[..1]), None);
        assert_eq!(first_message(&[&bytes[..], b"more"].concat()), Some(&b"abc"[..]));
        assert_eq!(framed(&vec![0; 65_536]), None);
    }
}
