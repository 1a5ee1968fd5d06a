//! One of a command's two outputs: a pipe, or a terminal.
//!
//! Reads at most one chunk at a time while the program runs, so that commands take turns. Reads the
//! rest once the program has exited.

use alloc::vec::Vec;

use supermachine_formats::wire::{Flow, Reply};

use crate::link::Outbox;
use crate::sys::fd::{Fd, read, read_now};
use crate::sys::poll::{Epoll, READABLE};
use crate::sys::{Errno, Result};

/// The most that is read from a pipe after the program's exit: the size of the largest pipe. Only a
/// process that was left behind can write more.
const REST_LIMIT: usize = 1 << 20;

/// An output. See the module.
#[derive(Debug)]
pub(super) struct Pipe {
    /// `None` once it is at its end.
    fd: Option<Fd>,
    is_terminal: bool,
    flow: Flow,
    /// Whether it is registered with the event loop.
    watched: bool,
    /// Bytes that may still be read after the program's exit.
    rest: usize,
    /// The pipe after that, while other processes can still write to it.
    left: Option<Fd>,
}

impl Pipe {
    pub(super) fn new(fd: Option<Fd>, is_terminal: bool) -> Self {
        Self { fd, is_terminal, flow: Flow::Open, watched: false, rest: REST_LIMIT, left: None }
    }

    /// Our end, while it is open.
    pub(super) fn fd(&self) -> Option<&Fd> {
        self.fd.as_ref()
    }

    /// Takes the pipe that processes left behind can still write to.
    pub(super) fn take_left(&mut self) -> Option<Fd> {
        self.left.take()
    }

    /// Resumes, pauses or closes the output.
    pub(super) fn set_flow(&mut self, flow: Flow) {
        if self.flow != Flow::Closed {
            self.flow = flow;
        }
        if self.flow == Flow::Closed {
            self.fd = None;
        }
    }

    /// Reads once. After the program's exit, reads until the pipe is empty.
    pub(super) fn pump(
        &mut self,
        scratch: &mut [u8],
        outbox: &mut Outbox,
        ended: bool,
        reply: fn(Vec<u8>) -> Reply,
    ) {
        while let Some(fd) = self.fd.as_ref().filter(|_| self.flow == Flow::Open) {
            if outbox.is_full() {
                return;
            }
            let limit = if ended { self.rest.min(scratch.len()) } else { scratch.len() };
            let space = scratch.get_mut(..limit).unwrap_or_default();
            let read = match (limit, self.is_terminal) {
                // Processes that were left behind may never stop writing.
                (0, _) => Err(Errno::AGAIN),
                (_, false) => read_now(fd, space),
                (_, true) => read(fd, space),
            };
            match read {
                Ok(0) | Err(Errno::PIPE) => self.fd = None,
                Ok(count) => {
                    outbox.push(&reply(space.split_at(count).0.to_vec()));
                    self.rest = if ended { self.rest.saturating_sub(count) } else { self.rest };
                }
                Err(Errno::INTR) => continue,
                // Empty but not closed: others can write to it. A terminal closes with its command.
                Err(_) if ended => self.left = self.fd.take().filter(|_| !self.is_terminal),
                Err(_) => {}
            }
            if !ended {
                return;
            }
        }
    }

    /// Registers with the event loop while there is room to send its output.
    pub(super) fn watch(&mut self, epoll: &Epoll, room: bool, token: u64) -> Result<()> {
        let wanted = room && self.flow == Flow::Open;
        let Some(fd) = self.fd.as_ref().filter(|_| wanted != self.watched) else { return Ok(()) };
        if wanted {
            epoll.add(fd, READABLE, token)?;
        } else {
            epoll.remove(fd)?;
        }
        self.watched = wanted;
        Ok(())
    }
}
