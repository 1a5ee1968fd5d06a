//! One socket of a relayed TCP connection. Host and agent each relay between two of them.
//!
//! An [`Endpoint`] owns its socket, what the last events said about it, and at most the bytes that one
//! call queued: its owner reads nothing for an endpoint whose queue is not flushed. Events are
//! edge-triggered, so readiness is remembered until a call finds nothing to read or no room. The
//! socket itself is the caller's, behind [`Socket`].
//!
//! Invariant: an endpoint that breaks takes no more bytes, but those that it sent before can be read.

#[cfg(test)]
mod tests;

use alloc::vec::Vec;

/// A socket that never blocks. Interrupted calls are repeated.
pub trait Socket {
    /// Why a call failed.
    type Error;

    /// Receives bytes. Returns `None` if there are none yet, 0 at end of file.
    ///
    /// # Errors
    /// The connection broke.
    fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>, Self::Error>;

    /// Sends as many bytes as fit. Returns `None` if there is no room.
    ///
    /// # Errors
    /// The connection broke.
    fn send(&self, bytes: &[u8]) -> Result<Option<usize>, Self::Error>;

    /// Closes the direction to the peer.
    ///
    /// # Errors
    /// The connection broke.
    fn shut_down_sending(&self) -> Result<(), Self::Error>;
}

/// A socket, with the bytes queued for it. See the module.
#[derive(Debug)]
pub struct Endpoint<S> {
    socket: S,
    is_readable: bool,
    is_writable: bool,
    queue: Vec<u8>,
    sent: usize,
    is_broken: bool,
    /// Whether it has sent all that it will send.
    pub has_finished: bool,
    /// Whether it knows that the other endpoint has finished.
    pub knows_end: bool,
}

impl<S: Socket> Endpoint<S> {
    /// A connected socket.
    pub const fn new(socket: S) -> Self {
        Self {
            socket,
            is_readable: true,
            is_writable: true,
            queue: Vec::new(),
            sent: 0,
            is_broken: false,
            has_finished: false,
            knows_end: false,
        }
    }

    /// The socket.
    pub const fn socket(&self) -> &S {
        &self.socket
    }

    /// Whether it may take bytes.
    pub const fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// Whether it takes no more bytes.
    pub const fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Whether no bytes are queued for it.
    pub const fn is_flushed(&self) -> bool {
        self.queue.is_empty()
    }

    /// Records an event of the socket.
    pub const fn hear(&mut self, is_readable: bool, is_writable: bool) {
        self.is_readable |= is_readable;
        self.is_writable |= is_writable;
    }

    /// Records that it takes nothing before the next event, because it is still connecting.
    pub const fn await_room(&mut self) {
        self.is_writable = false;
    }

    /// Receives bytes. Returns `None` if there are none, 0 at end of file.
    ///
    /// # Errors
    /// The connection broke.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, S::Error> {
        if !self.is_readable {
            return Ok(None);
        }
        let received = self.socket.receive(buffer)?;
        self.is_readable = received.is_some();
        Ok(received)
    }

    /// Queues bytes without sending any. The queue must be flushed.
    pub fn queue(&mut self, bytes: Vec<u8>) {
        self.queue = bytes;
    }

    /// Sends as many bytes as fit, and queues the rest.
    pub fn send(&mut self, bytes: &[u8]) {
        let sent = if self.queue.is_empty() { self.write(bytes) } else { 0 };
        if !self.is_broken {
            self.queue.extend_from_slice(bytes.split_at(sent).1);
        }
    }

    /// Sends queued bytes. Returns whether all are sent and it may take more.
    pub fn flush(&mut self) -> bool {
        if !self.queue.is_empty() {
            let queue = core::mem::take(&mut self.queue);
            self.sent += self.write(queue.split_at(self.sent).1);
            if self.is_broken {
                return false;
            }
            if self.sent < queue.len() {
                self.queue = queue;
                return false;
            }
            self.sent = 0;
        }
        !self.is_broken
    }

    /// Passes on, once, that the other endpoint has finished.
    ///
    /// # Errors
    /// The connection broke.
    pub fn tell_end(&mut self) -> Result<(), S::Error> {
        if self.knows_end {
            return Ok(());
        }
        self.knows_end = true;
        self.socket.shut_down_sending()
    }

    /// Records that it takes no more bytes, and drops those queued for it.
    pub fn break_off(&mut self) {
        self.is_broken = true;
        // A broken socket is readable: earlier bytes, or end of file.
        self.is_readable = true;
        self.queue = Vec::new();
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty() && self.is_writable)
        {
            match self.socket.send(rest) {
                Ok(Some(count)) => sent += count,
                Ok(None) => self.is_writable = false,
                Err(_) => {
                    self.is_writable = false;
                    self.break_off();
                }
            }
        }
        sent
    }
}
