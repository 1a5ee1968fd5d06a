//! One command of the host and its chain: input, time-out and exit.
//!
//! Owns the command's processes until it exits: dropping an [`Exec`] before that kills all of them.
//! Processes that a command leaves behind when it exits by itself live on.
//! Holds no socket; what is to be sent goes to an [`Outbox`], and while that is full the pipes
//! are left alone, so that the program waits.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use supermachine_formats::wire::{
    Exit, Failure, Flow, Input, MAX_CHUNK, Output, Reply, WindowSize,
};

use super::input::StdinQueue;
use super::pipe::Pipe;
use crate::cgroup::Group;
use crate::child::{self, Child, Stdio, exit};
use crate::container::Launch;
use crate::link::Outbox;
use crate::sys::clock;
use crate::sys::fd::Fd;
use crate::sys::process::{ExitedChild, SIGKILL, Spawner, signal_group};

/// How long the agent leaves a new command alone. A command that exits within this time costs one
/// write and no epoll registration.
const HOLD: u64 = 2_000_000;
const MILLISECOND: u64 = 1_000_000;

/// Which pipe an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Stdin = 1,
    Stdout = 2,
    Stderr = 3,
}

/// The commands that still follow, and what all of them share.
#[derive(Debug)]
pub(super) struct Chain {
    /// The last command's surroundings.
    pub(super) launch: Launch,
    /// The arguments of those that follow.
    pub(super) rest: VecDeque<Vec<Vec<u8>>>,
}

/// A command. See the module.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) pid: u32,
    /// Where all of its processes are.
    group: Option<Group>,
    started: u64,
    hold: Option<u64>,
    deadline: Option<u64>,
    pub(super) stdin: StdinQueue,
    pub(super) stdout: Pipe,
    pub(super) stderr: Pipe,
    /// The programs' ends of the pipes, while more commands follow. A terminal's end stays open until
    /// the program exits, since the program may open it again.
    stdio: Option<Stdio>,
    chain: Option<Box<Chain>>,
    is_terminal: bool,
    timed_out: bool,
    peak_rss_kib: u64,
    exit: Option<Exit>,
    /// Why the next command of the chain could not start.
    failure: Option<Failure>,
}

impl Exec {
    pub(super) fn new(
        child: Child,
        group: Option<Group>,
        stdio: Stdio,
        chain: Option<Box<Chain>>,
        timeout_ms: u64,
    ) -> Self {
        let timeout = timeout_ms.saturating_mul(MILLISECOND);
        let deadline = (timeout_ms != 0).then(|| child.started.saturating_add(timeout));
        let is_terminal = matches!(stdio, Stdio::Terminal(_));
        Self {
            pid: child.pid,
            group,
            started: child.started,
            hold: Some(child.started.saturating_add(HOLD)),
            deadline,
            stdin: StdinQueue::new(child.ends.stdin, is_terminal),
            stdout: Pipe::new(Some(child.ends.stdout), is_terminal),
            stderr: Pipe::new(child.ends.stderr, false),
            stdio: (is_terminal || chain.is_some()).then_some(stdio),
            chain,
            is_terminal,
            timed_out: false,
            peak_rss_kib: 0,
            exit: None,
            failure: None,
        }
    }

    /// Handles a frame of the host. Returns `false` if the host may not send it.
    pub(super) fn take_input(&mut self, input: Input, outbox: &mut Outbox) -> bool {
        match input {
            Input::Data(bytes) => return self.stdin.push(&bytes, outbox),
            Input::DataEnd => self.stdin.end(outbox),
            Input::Signal(SIGKILL) => self.kill(),
            // A process group that no longer exists needs no signal.
            Input::Signal(signal) if self.exit.is_none() => {
                let _ = signal_group(self.pid, signal);
            }
            Input::Signal(_) => {}
            Input::Resize(size) => self.resize(size),
            Input::Flow { output, flow } => self.set_flow(output, flow),
            _ => return false,
        }
        true
    }

    /// Writes as much pending input as the program has room for.
    pub(super) fn pump_input(&mut self, outbox: &mut Outbox) {
        self.stdin.pump(outbox);
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

    /// Records the program's exit, and starts the next command of the chain, if any.
    pub(super) fn end(&mut self, ended: &ExitedChild, spawner: &mut Spawner, null_device: &Fd) {
        let mut exit = exit(ended, self.started, clock::monotonic(), self.timed_out);
        self.peak_rss_kib = self.peak_rss_kib.max(exit.peak_rss_kib);
        exit.peak_rss_kib = self.peak_rss_kib;
        let continues = ended.status == 0 && !self.timed_out;
        let next =
            self.chain.as_mut().filter(|_| continues).and_then(|chain| chain.rest.pop_front());
        if let Some(argv) = next {
            match self.start_next(argv, spawner, null_device) {
                Ok(()) => return,
                Err(failure) => self.failure = Some(failure),
            }
        }
        self.exit = Some(exit);
        self.hold = None;
        self.deadline = None;
        self.stdin.stop();
        self.stdio = None;
    }

    fn start_next(
        &mut self,
        argv: Vec<Vec<u8>>,
        spawner: &mut Spawner,
        null_device: &Fd,
    ) -> Result<(), Failure> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        chain.launch.argv = argv;
        if self.is_terminal
            && let Some(ours) = self.stdout.fd()
        {
            // The old terminal was hung up when its session ended.
            self.stdio = None;
            self.stdio = Some(child::peer(ours, &chain.launch.account.credentials)?);
        }
        let Some(stdio) = &self.stdio else { return Ok(()) };
        let group = &mut self.group;
        (self.pid, _) = child::start(spawner, null_device, &chain.launch, stdio, group)?;
        if chain.rest.is_empty() && !self.is_terminal {
            self.stdio = None;
        }
        Ok(())
    }

    /// Reads the remaining output after the exit. Returns the final reply once the pipes are empty.
    pub(super) fn finish(&mut self, scratch: &mut [u8], outbox: &mut Outbox) -> Option<Reply> {
        let exit = self.exit?;
        self.pump_output(Role::Stdout, scratch, outbox);
        self.pump_output(Role::Stderr, scratch, outbox);
        if self.stdout.fd().is_some() || self.stderr.fd().is_some() {
            return None;
        }
        Some(match self.failure.take() {
            Some(failure) => Reply::Failed(failure),
            None => Reply::Exited(exit),
        })
    }

    /// The pipes that processes left behind still write to.
    pub(super) fn take_left(&mut self) -> [Option<Fd>; 2] {
        [self.stdout.take_left(), self.stderr.take_left()]
    }

    /// Whether it is the running process `pid`.
    pub(super) fn runs(&self, pid: u32) -> bool {
        self.pid == pid && self.exit.is_none()
    }

    /// Ends the hold: input is still to come, and the host waits for the start.
    pub(super) fn release_if_interactive(&mut self) {
        if self.stdin.is_open() {
            self.hold = None;
        }
    }

    /// Whether the agent still leaves the command alone.
    pub(super) fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    /// The next deadline, by the monotonic clock.
    pub(super) fn next_moment(&self) -> Option<u64> {
        self.hold.into_iter().chain(self.deadline).min()
    }

    /// Handles the deadlines that have passed at `now`.
    pub(super) fn pass(&mut self, now: u64) {
        if self.hold.is_some_and(|moment| moment <= now) {
            self.hold = None;
        }
        if self.deadline.is_some_and(|moment| moment <= now) {
            self.deadline = None;
            self.timed_out = true;
            self.kill();
        }
    }

    /// Kills every process of the command, unless the command has exited.
    fn kill(&self) {
        if self.exit.is_some() {
            return;
        }
        let killed = self.group.as_ref().map(Group::kill);
        if !matches!(killed, Some(Ok(()))) {
            let _ = signal_group(self.pid, SIGKILL);
        }
    }

    /// Sets the terminal's size. Without a terminal this is a no-op.
    fn resize(&self, size: WindowSize) {
        if self.is_terminal
            && let Some(terminal) = self.stdout.fd()
        {
            let _ = child::resize(terminal, size);
        }
    }

    fn set_flow(&mut self, output: Output, flow: Flow) {
        match output {
            Output::Stdout => self.stdout.set_flow(flow),
            Output::Stderr => self.stderr.set_flow(flow),
        }
        if self.is_terminal && self.stdout.fd().is_none() {
            // Both directions are one file: half of it would stay registered.
            self.stdin.close();
            self.stdio = None;
        }
    }
}

impl Drop for Exec {
    /// Kills the command and its processes: nobody waits for it any more.
    fn drop(&mut self) {
        self.kill();
    }
}
