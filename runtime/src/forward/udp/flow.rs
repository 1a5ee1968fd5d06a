//! One flow: a client and the address that it asks, and the stream to the guest that carries its datagrams.
//!
//! The guest is not trusted: a frame that is no datagram breaks the flow before its payload is stored.
//! Memory is bounded: one incomplete frame from the guest, and [`QUEUE`] bytes for it. Frames are
//! queued and dropped whole.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use supermachine_formats::wire::{Datagram, HEADER_SIZE, Header, MAX_NAME, Message, Reply};

use crate::os::{self, Route};

/// The most bytes that wait for a guest that does not read, besides the rest of one frame.
pub(super) const QUEUE: usize = 128 << 10;
/// The longest reply to a request for a flow.
const MAX_REPLY: usize = 4 * MAX_NAME;

/// A flow. See the module.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) route: Route,
    /// When the last datagram passed.
    pub(super) used: Instant,
    /// Whether the guest has sent a datagram.
    pub(super) is_answered: bool,
    guest: UnixStream,
    /// Whether the guest has replied to the request.
    is_connected: bool,
    /// The bytes of an incomplete frame of the guest.
    inbox: Vec<u8>,
    queue: VecDeque<Vec<u8>>,
    /// The bytes in the queue.
    queued: usize,
    /// The bytes of the first frame in the queue that are sent.
    sent: usize,
    /// Counts the stream.
    _slot: Arc<()>,
}

impl Flow {
    /// A flow on a stream with its request.
    pub(super) fn new(route: Route, guest: UnixStream, slot: Arc<()>, now: Instant) -> Self {
        Self {
            route,
            used: now,
            is_answered: false,
            guest,
            is_connected: false,
            inbox: Vec::new(),
            queue: VecDeque::new(),
            queued: 0,
            sent: 0,
            _slot: slot,
        }
    }

    /// The descriptor to watch.
    pub(super) fn descriptor(&self) -> RawFd {
        self.guest.as_raw_fd()
    }

    /// Whether no frame waits for the guest.
    pub(super) fn is_flushed(&self) -> bool {
        self.queue.is_empty()
    }

    /// Sends a frame to the guest, or queues it, or drops it if the queue is full.
    ///
    /// # Errors
    /// The stream is closed.
    pub(super) fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        if self.queue.is_empty() {
            sent = self.write(frame)?;
            if sent == frame.len() {
                return Ok(());
            }
        }
        // A frame that has begun must be finished.
        if sent > 0 || self.queued + frame.len() <= QUEUE {
            let rest = frame.split_at(sent).1.to_vec();
            self.queued += rest.len();
            self.queue.push_back(rest);
        }
        Ok(())
    }

    /// Sends as much of the queue as fits.
    ///
    /// # Errors
    /// The stream is closed.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while let Some(frame) = self.queue.pop_front() {
            let count = self.write(frame.split_at(self.sent).1)?;
            self.sent += count;
            if self.sent < frame.len() {
                self.queue.push_front(frame);
                return Ok(());
            }
            self.queued = self.queued.saturating_sub(frame.len());
            self.sent = 0;
        }
        Ok(())
    }

    /// Receives bytes of the guest, and passes its datagrams on.
    ///
    /// # Errors
    /// The stream is closed, or what the guest sent is no datagram.
    pub(super) fn receive(
        &mut self,
        scratch: &mut [u8],
        mut pass_on: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let count = match os::receive(&self.guest, scratch) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if is_passing(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let bytes = scratch.split_at(count).0;
        if self.inbox.is_empty() {
            let taken = self.take_frames(bytes, &mut pass_on)?;
            self.inbox = bytes.split_at(taken).1.to_vec();
        } else {
            let mut inbox = std::mem::take(&mut self.inbox);
            inbox.extend_from_slice(bytes);
            let taken = self.take_frames(&inbox, &mut pass_on)?;
            self.inbox = inbox.split_at(taken).1.to_vec();
        }
        Ok(())
    }

    /// Takes the whole frames at the start. Returns how many bytes they have.
    fn take_frames(&mut self, bytes: &[u8], pass_on: &mut impl FnMut(&[u8])) -> io::Result<usize> {
        let malformed = |_| io::Error::from(ErrorKind::InvalidData);
        let mut rest = bytes;
        while let Some((header, behind)) = rest.split_first_chunk::<HEADER_SIZE>() {
            let header = Header::decode(*header).map_err(malformed)?;
            let length = if self.is_connected {
                Datagram::check(header).map_err(malformed)?
            } else if header.length <= MAX_REPLY {
                header.length
            } else {
                return Err(ErrorKind::InvalidData.into());
            };
            let Some((payload, behind)) = behind.split_at_checked(length) else { break };
            if self.is_connected {
                self.is_answered = true;
                pass_on(payload);
            } else {
                match Reply::decode(header.kind, payload).map_err(malformed)? {
                    Reply::Connected => self.is_connected = true,
                    _ => return Err(ErrorKind::ConnectionRefused.into()),
                }
            }
            rest = behind;
        }
        Ok(bytes.len() - rest.len())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match os::send(&self.guest, bytes) {
            Err(error) if is_passing(&error) => Ok(0),
            result => result,
        }
    }
}

/// Whether a call may succeed when it is repeated.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
