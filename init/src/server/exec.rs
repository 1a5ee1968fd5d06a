//! One command of the host: its pipes, its input, its time-out, its end.
//!
//! Owns the process until it has ended: dropping an [`Exec`] before kills its process group.
//! Holds no socket; what is to be sent goes to an [`Outbox`], and while that is full the pipes
//! are left alone, so that the program waits.

use alloc::vec::Vec;

use supermachine_formats::wire::{Exit, Input, MAX_CHUNK, Reply};

use crate::child::{Child, exit};
use crate::link::Outbox;
use crate::sys::fd::{Fd, read_now, write_now};
use crate::sys::process::{Ended, SIGKILL, signal_group};
use crate::sys::{Errno, clock};

/// Input that waits for a program to read it; beyond this the host has to wait.
const INPUT_LIMIT: usize = 256 << 10;
/// How long a command stays to itself after its start: one that ends by then is answered in
/// one write, and nothing was registered for it.
const HOLD: u64 = 2_000_000;
/// The most that is read from a pipe after the program's end: the largest pipe. More can only
/// come from a process that was left behind.
const REST_LIMIT: usize = 1 << 20;
const MILLISECOND: u64 = 1_000_000;

/// Which pipe an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Stdin = 1,
    Stdout = 2,
    Stderr = 3,
}

/// One of the two output pipes.
#[derive(Debug)]
pub(super) struct Pipe {
    /// None: it is at its end.
    pub(super) fd: Option<Fd>,
    /// Whether the event loop watches it.
    pub(super) watched: bool,
    /// Bytes that may still be read once the program has ended.
    rest: usize,
    empty: bool,
}

/// A command. See the module.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) pid: u32,
    started: u64,
    hold: Option<u64>,
    deadline: Option<u64>,
    pub(super) stdin: Option<Fd>,
    pub(super) stdin_watched: bool,
    input: Vec<u8>,
    input_start: usize,
    input_ended: bool,
    pub(super) stdout: Pipe,
    pub(super) stderr: Pipe,
    timed_out: bool,
    exit: Option<Exit>,
}

impl Pipe {
    fn new(fd: Fd) -> Self {
        Self { fd: Some(fd), watched: false, rest: REST_LIMIT, empty: false }
    }

    /// Reads once. After the program's end, reads until the pipe is empty.
    fn pump(
        &mut self,
        scratch: &mut [u8],
        outbox: &mut Outbox,
        ended: bool,
        reply: fn(Vec<u8>) -> Reply,
    ) {
        while let Some(fd) = self.fd.as_ref().filter(|_| !outbox.is_full()) {
            let limit = if ended { self.rest.min(scratch.len()) } else { scratch.len() };
            let Some(space) = scratch.get_mut(..limit).filter(|space| !space.is_empty()) else {
                self.fd = None;
                return;
            };
            match read_now(fd, space) {
                Ok(0) | Err(Errno::EPIPE) => self.fd = None,
                Ok(count) => {
                    outbox.push(&reply(space.get(..count).unwrap_or_default().to_vec()));
                    if !ended {
                        return;
                    }
                    self.rest -= count;
                    // A pipe gives all it has at once, so that a short read emptied it.
                    self.empty = count < limit;
                }
                Err(Errno::EINTR) => {}
                Err(_) => self.empty = true,
            }
            if self.empty && ended {
                self.fd = None;
            }
            if !ended {
                return;
            }
        }
    }
}

impl Exec {
    pub(super) fn new(child: Child, timeout_ms: u64) -> Self {
        let timeout = timeout_ms.saturating_mul(MILLISECOND);
        let deadline = (timeout_ms != 0).then(|| child.started.saturating_add(timeout));
        Self {
            pid: child.pid,
            started: child.started,
            hold: Some(child.started.saturating_add(HOLD)),
            deadline,
            stdin: child.stdin,
            stdin_watched: false,
            input: Vec::new(),
            input_start: 0,
            input_ended: false,
            stdout: Pipe::new(child.stdout),
            stderr: Pipe::new(child.stderr),
            timed_out: false,
            exit: None,
        }
    }

    /// Carries out what the host sent.
    pub(super) fn take_input(&mut self, input: Input) {
        match input {
            Input::Stdin(bytes) if self.stdin.is_some() && !self.input_ended => {
                self.input.extend_from_slice(&bytes);
            }
            Input::StdinEnd => self.input_ended = true,
            // A group that is gone has nothing to be told.
            Input::Signal(signal) if self.exit.is_none() => {
                let _ = signal_group(self.pid, signal);
            }
            _ => {}
        }
        self.pump_input();
    }

    /// Writes waiting input, as much as the program has room for.
    pub(super) fn pump_input(&mut self) {
        while let (Some(fd), Some(rest)) = (&self.stdin, self.input.get(self.input_start..)) {
            if rest.is_empty() {
                break;
            }
            match write_now(fd, rest) {
                Ok(count) => self.input_start += count,
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                // The program reads no more: what it left is dropped.
                Err(_) => self.stdin = None,
            }
        }
        self.input.clear();
        self.input_start = 0;
        if self.input_ended {
            self.stdin = None;
        }
    }

    /// Whether input waits for room.
    pub(super) fn input_waits(&self) -> bool {
        self.stdin.is_some() && self.input_start < self.input.len()
    }

    /// Whether more input may be taken.
    pub(super) fn wants_input(&self) -> bool {
        self.input.len() < INPUT_LIMIT
    }

    /// Reads output that an event announced.
    pub(super) fn pump_output(&mut self, role: Role, scratch: &mut [u8], outbox: &mut Outbox) {
        let scratch = scratch.get_mut(..MAX_CHUNK).unwrap_or_default();
        match role {
            Role::Stdin => {}
            Role::Stdout => self.stdout.pump(scratch, outbox, self.exit.is_some(), Reply::Stdout),
            Role::Stderr => self.stderr.pump(scratch, outbox, self.exit.is_some(), Reply::Stderr),
        }
    }

    /// Notes the program's end.
    pub(super) fn end(&mut self, ended: &Ended) {
        self.exit = Some(exit(ended, self.started, clock::monotonic(), self.timed_out));
        self.hold = None;
        self.deadline = None;
        self.stdin = None;
    }

    /// Takes what is left after the end. The exit comes once there is nothing left.
    pub(super) fn finish(&mut self, scratch: &mut [u8], outbox: &mut Outbox) -> Option<Exit> {
        self.exit?;
        self.pump_output(Role::Stdout, scratch, outbox);
        self.pump_output(Role::Stderr, scratch, outbox);
        if self.stdout.fd.is_some() || self.stderr.fd.is_some() { None } else { self.exit }
    }

    /// Whether it is the running process `pid`.
    pub(super) fn runs(&self, pid: u32) -> bool {
        self.pid == pid && self.exit.is_none()
    }

    /// Whether the command still has its first moment to itself.
    pub(super) fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    /// When time next matters.
    pub(super) fn next_moment(&self) -> Option<u64> {
        self.hold.into_iter().chain(self.deadline).min()
    }

    /// Does what is due at `now`.
    pub(super) fn pass(&mut self, now: u64) {
        if self.hold.is_some_and(|moment| moment <= now) {
            self.hold = None;
        }
        if self.deadline.is_some_and(|moment| moment <= now) {
            self.deadline = None;
            self.timed_out = true;
            let _ = signal_group(self.pid, SIGKILL);
        }
    }
}

impl Drop for Exec {
    /// A command that nobody waits for any more is ended, with all that it started.
    fn drop(&mut self) {
        if self.exit.is_none() {
            let _ = signal_group(self.pid, SIGKILL);
        }
    }
}
