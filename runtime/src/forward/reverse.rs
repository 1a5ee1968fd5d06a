//! The guest's listener: connections that the guest makes, for an address of the host.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use supermachine_formats::wire::{HEADER_SIZE, Header, Message, Reply, Request};

use super::relay::{Arrival, Source};
use super::sys;

/// What is read of the guest's news at once.
const PIECE: usize = 4096;
/// The longest of the guest's messages here.
const MAX_MESSAGE: usize = 64;

/// The stream on which the guest tells of connections. The address is the app's choice alone:
/// nothing that the guest says changes it.
#[derive(Debug)]
pub(super) struct Guest {
    stream: UnixStream,
    target: SocketAddr,
    news: Vec<u8>,
}

impl Guest {
    /// A stream whose listener has begun.
    pub(super) fn new(stream: UnixStream, target: SocketAddr) -> Self {
        Self { stream, target, news: Vec::new() }
    }

    /// The number of the next connection, if its message is whole.
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

impl Source for Guest {
    fn descriptor(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    fn next(&mut self) -> io::Result<Arrival> {
        let connection = loop {
            if let Some(connection) = self.take()? {
                break connection;
            }
            let mut piece = [0; PIECE];
            match sys::receive(&self.stream, &mut piece) {
                Ok(count) if count > 0 => {
                    self.news.extend_from_slice(piece.get(..count).unwrap_or_default());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(error),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return Err(ErrorKind::BrokenPipe.into()),
            }
        };
        let client = sys::connect(self.target).ok();
        Ok(Arrival { client, request: Request::Accept { connection }, is_connecting: true })
    }
}
