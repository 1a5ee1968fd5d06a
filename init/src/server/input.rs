//! A command's standard input: what waits for the program to read it, and what the host is
//! told of it.
//!
//! Invariant: no more than [`STDIN_WINDOW`] bytes wait; a host that sends more breaks a rule.

use alloc::vec::Vec;

use supermachine_formats::wire::{Reply, STDIN_WINDOW};

use crate::link::Outbox;
use crate::sys::fd::{Fd, write, write_now};
use crate::sys::poll::{Epoll, WRITABLE};
use crate::sys::{Errno, Result};

/// What ends input on a terminal, as ^D does on a keyboard.
const END_OF_TRANSMISSION: u8 = 4;
/// Taken bytes that are worth telling the host.
const WORTH_TELLING: usize = STDIN_WINDOW / 2;

/// The input. See the module.
#[derive(Debug)]
pub(super) struct StdinQueue {
    /// None: the program gets no more.
    fd: Option<Fd>,
    is_terminal: bool,
    watched: bool,
    bytes: Vec<u8>,
    start: usize,
    ended: bool,
    /// Taken bytes that the host was not told of.
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

    /// Adds input. False: it was not to be sent.
    pub(super) fn push(&mut self, bytes: &[u8], outbox: &mut Outbox) -> bool {
        if self.ended {
            return false;
        }
        if self.fd.is_none() {
            // It was under way when the program closed its end.
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

    /// No more comes.
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
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                // The program reads no more: what it left is dropped.
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

    /// The program has ended. A terminal stays open for what is left to read from it: both
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

    /// Tells the loop whether room is waited for.
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
