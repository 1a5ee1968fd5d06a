//! One request stream: its received bytes, its outgoing bytes, and its work.

use alloc::boxed::Box;

use supermachine_formats::wire::{Failure, HEADER_SIZE, Input, MAX_CHUNK, MAX_PAYLOAD, Reply};

use super::entrypoint::Entrypoint;
use super::exec::{Exec, Role};
use super::slab::Key;
use super::token::Token;
use crate::files::{Sink, Source};
use crate::link::{Inbox, Outbox};
use crate::log;
use crate::sys::fd::Fd;
use crate::sys::poll::{Epoll, EventFlags, HANG_UP, READABLE, WRITABLE};
use crate::sys::{self, Errno, socket};

/// The work of a stream.
#[derive(Debug)]
pub(super) enum Work {
    /// The request is not complete yet.
    Request,
    /// Runs a command.
    Exec(Box<Exec>),
    /// Follows the entrypoint's output.
    Logs {
        /// The next byte to send.
        position: u64,
        /// Whether to wait for more.
        follow: bool,
    },
    /// Writes a file or unpacks an archive.
    Take(Box<Sink>),
    /// Reads a file or packs an archive.
    Give(Box<Source>),
    /// The final reply is being sent.
    Done,
}

/// A connection of the host. See the module.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Fd,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    pub(super) work: Work,
    /// Pipes of a command that has exited, which other processes still hold open.
    pub(super) left: [Option<Fd>; 2],
    /// The events that the socket is registered for. `None` before its registration.
    watched: Option<EventFlags>,
}

impl Stream {
    pub(super) fn new(socket: Fd) -> Self {
        Self {
            socket,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            work: Work::Request,
            left: [None, None],
            watched: None,
        }
    }

    /// Takes the stream apart: its socket, the bytes that were received but not used, and whether the
    /// socket is registered.
    pub(super) fn into_parts(self) -> (Fd, Inbox, bool) {
        (self.socket, self.inbox, self.watched.is_some())
    }

    /// Receives bytes. Returns `false` once the host has closed the stream.
    pub(super) fn receive(&mut self, scratch: &mut [u8]) -> bool {
        while self.wants_more() {
            match socket::receive(&self.socket, scratch) {
                Ok(0) => return false,
                // No more input is expected: discard it.
                Ok(_) if matches!(self.work, Work::Logs { .. } | Work::Give(_) | Work::Done) => {
                    return true;
                }
                Ok(count) => {
                    self.inbox.push(scratch.split_at(count).0);
                    if count < scratch.len() || !matches!(self.work, Work::Request) {
                        return true;
                    }
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Queues the final reply.
    pub(super) fn finish(&mut self, reply: &Reply) {
        self.outbox.push(reply);
        self.work = Work::Done;
    }

    /// Makes as much progress as possible. Returns `false` once the stream is done or broken.
    pub(super) fn advance(&mut self, scratch: &mut [u8], entrypoint: Option<&Entrypoint>) -> bool {
        if !self.take_input() {
            return false;
        }
        if let Work::Exec(exec) = &mut self.work {
            exec.release_if_interactive();
        }
        // Once, so that other streams get their turn. The loop returns while the host has room.
        self.give(scratch);
        loop {
            if let Work::Exec(exec) = &mut self.work
                && let Some(last) = exec.finish(scratch, &mut self.outbox)
            {
                self.left = exec.take_left();
                self.finish(&last);
            }
            self.copy_log(entrypoint);
            if matches!(&self.work, Work::Exec(exec) if exec.is_held()) {
                return true;
            }
            let was_full = self.outbox.is_full();
            if self.outbox.flush(&self.socket).is_err() {
                return false;
            }
            // More output fits only if the outbox was full and no longer is.
            if !was_full || self.outbox.is_full() {
                return !(self.outbox.is_empty() && matches!(self.work, Work::Done));
            }
        }
    }

    /// Registers the events that the stream waits for.
    pub(super) fn watch(&mut self, epoll: &Epoll, key: Key) -> sys::Result<()> {
        if matches!(&self.work, Work::Exec(exec) if exec.is_held()) {
            return Ok(());
        }
        let room = !self.outbox.is_full();
        let mut wanted = HANG_UP;
        if self.wants_more() {
            wanted |= READABLE;
        }
        if !self.outbox.is_empty() || matches!(self.work, Work::Give(_)) {
            wanted |= WRITABLE;
        }
        if self.watched != Some(wanted) {
            let token = Token::Stream(key).pack();
            match self.watched {
                None => epoll.add(&self.socket, wanted, token)?,
                Some(_) => epoll.modify(&self.socket, wanted, token)?,
            }
            self.watched = Some(wanted);
        }
        if let Work::Exec(exec) = &mut self.work {
            exec.stdout.watch(epoll, room, Token::Pipe(key, Role::Stdout).pack())?;
            exec.stderr.watch(epoll, room, Token::Pipe(key, Role::Stderr).pack())?;
            exec.stdin.watch(epoll, Token::Pipe(key, Role::Stdin).pack())?;
        }
        Ok(())
    }

    /// Stops reporting events.
    pub(super) fn unwatch(&mut self, epoll: &Epoll) {
        if self.watched.take().is_some() {
            // It fails only for a socket that is not registered.
            let _ = epoll.remove(&self.socket);
        }
    }

    /// Whether this stream's command is the process `pid`.
    pub(super) fn runs(&self, pid: u32) -> bool {
        matches!(&self.work, Work::Exec(exec) if exec.runs(pid))
    }

    /// Its next deadline.
    pub(super) fn next_moment(&self) -> Option<u64> {
        match &self.work {
            Work::Exec(exec) => exec.next_moment(),
            _ => None,
        }
    }

    fn wants_more(&self) -> bool {
        match &self.work {
            Work::Request => self.inbox.len() < MAX_PAYLOAD + HEADER_SIZE,
            _ => true,
        }
    }

    /// Handles the host's input. Returns `false` if it is malformed or not allowed.
    fn take_input(&mut self) -> bool {
        while matches!(self.work, Work::Exec(_) | Work::Take(_)) {
            let input = match self.inbox.next::<Input>() {
                Ok(Some(input)) => input,
                Ok(None) => return true,
                Err(_) => return false,
            };
            let result = match (&mut self.work, input) {
                (Work::Exec(exec), input) => {
                    if !exec.take_input(input, &mut self.outbox) {
                        return false;
                    }
                    continue;
                }
                (Work::Take(sink), Input::Data(bytes)) => match sink.take(&bytes) {
                    Ok(()) => continue,
                    Err(failure) => Err(failure),
                },
                (Work::Take(sink), Input::DataEnd) => sink.finish(),
                _ => return false,
            };
            self.conclude(result);
        }
        true
    }

    /// Queues data that the host asked to read, up to the outbox's limit.
    fn give(&mut self, scratch: &mut [u8]) {
        let scratch = scratch.get_mut(..MAX_CHUNK).unwrap_or_default();
        while let Work::Give(source) = &mut self.work {
            if self.outbox.is_full() {
                return;
            }
            match source.give(scratch) {
                Ok(0) => self.finish(&Reply::Done),
                Ok(count) => {
                    let bytes = scratch.split_at(count).0;
                    self.outbox.push(&Reply::Data(bytes.to_vec()));
                }
                Err(failure) => self.finish(&Reply::Failed(failure)),
            }
        }
    }

    fn conclude(&mut self, result: Result<(), Failure>) {
        self.finish(&match result {
            Ok(()) => Reply::Done,
            Err(failure) => Reply::Failed(failure),
        });
    }

    fn copy_log(&mut self, entrypoint: Option<&Entrypoint>) {
        let (Work::Logs { position, follow }, Some(entrypoint)) = (&mut self.work, entrypoint)
        else {
            return;
        };
        while !self.outbox.is_full() {
            let Some((at, stream, bytes)) = entrypoint.log.read(*position, MAX_CHUNK) else {
                let last = match (entrypoint.exit, *follow) {
                    (Some(exit), _) => Reply::Exited(exit),
                    (None, false) => Reply::Done,
                    (None, true) => return,
                };
                return self.finish(&last);
            };
            *position = at + bytes.len() as u64;
            self.outbox.push(&match stream {
                log::Stream::Out => Reply::Stdout(bytes.to_vec()),
                log::Stream::Err => Reply::Stderr(bytes.to_vec()),
            });
        }
    }
}

/// Closes a stream with the reason why it carries nothing.
pub(super) fn refuse(stream: &Fd, failure: Failure) {
    let mut outbox = Outbox::default();
    outbox.push(&Reply::Failed(failure));
    // A new stream has room for it. If the host is gone, nobody needs it.
    let _ = outbox.flush(stream);
}
