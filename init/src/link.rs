//! One stream to the host: assembles frames from received bytes, and queues bytes to send.
//!
//! Both directions are bounded: a frame larger than the protocol allows closes the stream before it
//! is stored, and producers of output check [`Outbox::is_full`] first.

use alloc::vec::Vec;

use supermachine_formats::codec::DecodeError;
use supermachine_formats::wire::{HEADER_SIZE, Header, Message};

use crate::sys::fd::Fd;
use crate::sys::socket;
use crate::sys::{Errno, Result};

/// The number of queued bytes at which a stream's producer pauses.
pub(crate) const OUTBOX_LIMIT: usize = 64 << 10;

/// Received bytes that do not form a complete frame yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
}

impl Inbox {
    /// Adds bytes as they arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// How many bytes were not taken yet.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Takes the next whole frame.
    pub(crate) fn next<M: Message>(&mut self) -> core::result::Result<Option<M>, DecodeError> {
        let waiting = self.bytes.split_at(self.start).1;
        let Some((header, rest)) = waiting.split_first_chunk::<HEADER_SIZE>() else {
            self.compact();
            return Ok(None);
        };
        let header = Header::decode(*header)?;
        let Some(payload) = rest.get(..header.length) else {
            self.compact();
            return Ok(None);
        };
        let message = M::decode(header.kind, payload)?;
        self.start += HEADER_SIZE + header.length;
        Ok(Some(message))
    }

    /// What was not taken, as bytes.
    pub(crate) fn into_rest(mut self) -> Vec<u8> {
        self.compact();
        self.bytes
    }

    /// Drops what was taken.
    fn compact(&mut self) {
        self.bytes.drain(..self.start.min(self.bytes.len()));
        self.start = 0;
    }
}

/// Bytes on their way to the host.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    start: usize,
}

impl Outbox {
    /// Adds a frame.
    pub(crate) fn push(&mut self, message: &impl Message) {
        message.encode(&mut self.bytes);
    }

    /// Whether to produce no more for now.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() - self.start >= OUTBOX_LIMIT
    }

    /// Whether everything was sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Sends what the host has room for, in as few calls as possible.
    pub(crate) fn flush(&mut self, socket: &Fd) -> Result<()> {
        while let Some(rest) = self.bytes.get(self.start..).filter(|rest| !rest.is_empty()) {
            match socket::send(socket, rest) {
                Ok(count) => self.start += count,
                Err(Errno::AGAIN) => {
                    self.bytes.drain(..self.start);
                    self.start = 0;
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.bytes.clear();
        self.start = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use supermachine_formats::wire::{Command, Input, Reply, Request};

    #[test]
    fn frames_assemble_from_single_bytes() {
        let command = Command { argv: vec![b"ls".to_vec()], stdin: true, ..Command::default() };
        let mut bytes = Request::Exec(command.clone()).to_frame();
        Request::Settle.encode(&mut bytes);
        let mut inbox = Inbox::default();
        let mut found = Vec::new();
        for byte in bytes {
            inbox.push(&[byte]);
            found.extend(inbox.next::<Request>().unwrap());
        }
        assert_eq!(found, [Request::Exec(command), Request::Settle]);
    }

    #[test]
    fn frames_that_arrive_together_are_split() {
        let mut bytes = Input::Data(vec![7; 9]).to_frame();
        Input::DataEnd.encode(&mut bytes);
        let mut inbox = Inbox::default();
        inbox.push(&bytes);
        assert_eq!(inbox.next(), Ok(Some(Input::Data(vec![7; 9]))));
        assert_eq!(inbox.next(), Ok(Some(Input::DataEnd)));
        assert_eq!(inbox.next::<Input>(), Ok(None));
        assert!(inbox.bytes.is_empty());
    }

    #[test]
    fn oversized_frame_is_refused_by_its_header() {
        let mut inbox = Inbox::default();
        inbox.push(&[0xFF, 0xFF, 0xFF, 0xFF, 0x23, 0, 0, 0]);
        assert!(inbox.next::<Request>().is_err());
    }

    #[test]
    fn outbox_fills_to_its_limit_and_drains_in_order() {
        let (host, mut peer) = UnixStream::pair().unwrap();
        let socket = Fd::from_owned(host.into());
        let mut outbox = Outbox::default();
        let reply = Reply::Stdout(vec![5; 1000]);
        let mut pushed = 0;
        while !outbox.is_full() {
            outbox.push(&reply);
            pushed += 1;
        }
        assert_eq!(pushed, OUTBOX_LIMIT.div_ceil(1008));
        let mut received = vec![0; pushed * 1008];
        outbox.flush(&socket).unwrap();
        peer.read_exact(&mut received).unwrap();
        assert!(outbox.is_empty());
        assert_eq!(received, reply.to_frame().repeat(pushed));
    }

    #[test]
    fn peer_without_room_leaves_the_rest_queued() {
        let (host, peer) = UnixStream::pair().unwrap();
        let socket = Fd::from_owned(host.into());
        let mut outbox = Outbox::default();
        for _ in 0..100 {
            outbox.push(&Reply::Stdout(vec![5; 64 << 10]));
        }
        outbox.flush(&socket).unwrap();
        assert!(!outbox.is_empty() && outbox.is_full());
        // A child of another test may have a copy of it for a moment.
        peer.shutdown(Shutdown::Both).unwrap();
        assert_eq!(outbox.flush(&socket), Err(Errno::PIPE));
    }
}
