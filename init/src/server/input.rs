//! A command's standard input: bytes that the program has not read yet, and the window updates for
//! the host.
//!
//! Invariant: no more than [`STDIN_WINDOW`] bytes wait; a host that sends more
//! violates the protocol.

use alloc::vec::Vec;

use supermachine_formats::wire::{Reply, STDIN_WINDOW};

use crate::link::Outbox;
use crate::sys::fd::{Fd, write, write_now};
use crate::sys::poll::{Epoll, WRITABLE};
use crate::sys::{Errno, Result};

/// The character that ends input on a terminal, as ^D does on a keyboard.
const END_OF_TRANSMISSION: u8 = 4;
/// The number of taken bytes that makes a window update worthwhile.
const WORTH_TELLING: usize = STDIN_WINDOW / 2;

/// The input. See the module.
#[derive(Debug)]
pub(super) struct StdinQueue {
    /// `None` once the program gets no more input.
    fd: Option<Fd>,
    is_terminal: bool,
    watched: bool,
    bytes: Vec<u8>,
    start: usize,
    ended: bool,
    /// Taken bytes that no window update has reported yet.
    untold: usize,
}

impl StdinQueue {
    pub(super) fn new(fd: Option<Fd>, is_terminal: bool) -> Self {
        let bytes = Vec::new();
        Self { fd, is_terminal, watched: false, bytes, start: 0, ended: false, untold: 0 }
    }

    /// Whether the host may send more.
    pub(super) fn is_open(&self) -> bool {
        self.fd.is_some() && !self.ended
    }

    /// Adds input. Returns `false` if the host may not send it.
    pub(super) fn push(&mut self, bytes: &[u8], outbox: &mut Outbox) -> bool {
        if self.ended {
            return false;
        }
        if self.fd.is_none() {
            // The host sent it before it knew that the program had closed its end.
            return true;
        }
        if self.waiting() + bytes.len() > STDIN_WINDOW {
            return false;
        }
        if self.start > WORTH_TELLING {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
        self.pump(outbox);
        true
    }

    /// Marks the end of the input.
    pub(super) fn end(&mut self, outbox: &mut Outbox) {
        if !self.ended && self.is_terminal && self.fd.is_some() {
            self.bytes.push(END_OF_TRANSMISSION);
        }
        self.ended = true;
        self.pump(outbox);
    }

    /// Writes as much as the program has room for.
    pub(super) fn pump(&mut self, outbox: &mut Outbox) {
        while let (Some(fd), Some(rest)) = (&self.fd, self.bytes.get(self.start..)) {
            if rest.is_empty() {
                break;
            }
            let written = if self.is_terminal { write(fd, rest) } else { write_now(fd, rest) };
            match written {
                Ok(count) => self.count_taken(count, outbox),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // The program reads no more: drop the rest.
                Err(_) if self.is_terminal => break,
                Err(_) => {
                    outbox.push(&Reply::StdinClosed);
                    self.close();
                }
            }
        }
        self.bytes.clear();
        self.start = 0;
        if self.ended && !self.is_terminal {
            self.fd = None;
        }
    }

    /// Stops input after the program's exit. A terminal stays open for its remaining output: both
    /// directions are one file.
    pub(super) fn stop(&mut self) {
        self.bytes.clear();
        self.start = 0;
        if !self.is_terminal {
            self.fd = None;
        }
    }

    /// Closes it.
    pub(super) fn close(&mut self) {
        self.bytes.clear();
        self.start = 0;
        self.fd = None;
    }

    /// Registers with the event loop while input waits for room.
    pub(super) fn watch(&mut self, epoll: &Epoll, token: u64) -> Result<()> {
        let wanted = self.waiting() > 0;
        let Some(fd) = self.fd.as_ref().filter(|_| wanted != self.watched) else { return Ok(()) };
        if wanted {
            epoll.add(fd, WRITABLE, token)?;
        } else {
            epoll.remove(fd)?;
        }
        self.watched = wanted;
        Ok(())
    }

    fn waiting(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn count_taken(&mut self, count: usize, outbox: &mut Outbox) {
        self.start += count;
        self.untold += count;
        if self.untold >= WORTH_TELLING && !self.ended {
            outbox.push(&Reply::StdinTaken(u32::try_from(self.untold).unwrap_or(u32::MAX)));
            self.untold = 0;
        }
    }
}
