//! A listener of the guest: connections that the guest makes to an address of the host.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use supermachine_formats::wire::{HEADER_SIZE, Header, Message, Reply, Request};

use super::relay::{Arrival, Source};
use crate::os;

/// The size of one read.
const PIECE: usize = 4096;
/// The longest message of the guest.
const MAX_MESSAGE: usize = 64;

/// The stream on which the guest announces connections. The app alone sets the address: no message
/// of the guest changes it.
#[derive(Debug)]
pub(super) struct GuestListener {
    stream: UnixStream,
    target: SocketAddr,
    news: Vec<u8>,
}

impl GuestListener {
    /// A stream of a listener that has started.
    pub(super) fn new(stream: UnixStream, target: SocketAddr) -> Self {
        Self { stream, target, news: Vec::new() }
    }

    /// The number of the next connection, if its message is complete.
    fn take(&mut self) -> io::Result<Option<u32>> {
        let Some((header, rest)) = self.news.split_first_chunk::<HEADER_SIZE>() else {
            return Ok(None);
        };
        let broken = |_| io::Error::from(ErrorKind::BrokenPipe);
        let header = Header::decode(*header).map_err(broken)?;
        if header.length > MAX_MESSAGE {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let Some(payload) = rest.get(..header.length) else { return Ok(None) };
        let reply = Reply::decode(header.kind, payload).map_err(broken)?;
        self.news.drain(..HEADER_SIZE + header.length);
        match reply {
            Reply::Accepted { connection } => Ok(Some(connection)),
            _ => Err(ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Source for GuestListener {
    fn descriptor(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    fn next(&mut self) -> io::Result<Arrival> {
        let connection = loop {
            if let Some(connection) = self.take()? {
                break connection;
            }
            let mut piece = [0; PIECE];
            match os::receive(&self.stream, &mut piece) {
                Ok(count) if count > 0 => {
                    self.news.extend_from_slice(&piece[..count]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(error),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return Err(ErrorKind::BrokenPipe.into()),
            }
        };
        let client = os::connect(self.target).ok();
        Ok(Arrival { client, request: Request::Accept { connection }, is_connecting: true })
    }
}
