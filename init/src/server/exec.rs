//! One command of the host, and those that follow it: its input, its time-out, its end.
//!
//! Owns the processes until the command has ended: dropping an [`Exec`] before kills all of them.
//! Those that are left behind by a command that ended by itself live on.
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
use crate::sys::process::{Ended, SIGKILL, Spawner, signal_group};

/// How long a command stays to itself after its start: one that ends by then is answered in
/// one write, and nothing was registered for it.
const HOLD: u64 = 2_000_000;
const MILLISECOND: u64 = 1_000_000;

/// Which pipe an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Stdin = 1,
    Stdout = 2,
    Stderr = 3,
}

/// The commands that follow, with what all of them share.
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
    /// The programs' ends, if there are more to come or it is a terminal: its end must not
    /// close while the program, which may open it anew, still runs.
    stdio: Option<Stdio>,
    chain: Option<Box<Chain>>,
    is_terminal: bool,
    timed_out: bool,
    peak_rss_kib: u64,
    exit: Option<Exit>,
    /// Why the command that follows could not be started.
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

    /// Carries out what the host sent. False: it may not send that.
    pub(super) fn take_input(&mut self, input: Input, outbox: &mut Outbox) -> bool {
        match input {
            Input::Data(bytes) => return self.stdin.push(&bytes, outbox),
            Input::DataEnd => self.stdin.end(outbox),
            Input::Signal(SIGKILL) => self.kill(),
            // A process group that is gone needs no signal.
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

    /// Writes waiting input, as much as the program has room for.
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

    /// Notes the program's end, and starts the one that follows it, if there is one.
    pub(super) fn end(&mut self, ended: &Ended, spawner: &mut Spawner, null_device: &Fd) {
        let mut exit = exit(ended, self.started, clock::monotonic(), self.timed_out);
        self.peak_rss_kib = self.peak_rss_kib.max(exit.peak_rss_kib);
        exit.peak_rss_kib = self.peak_rss_kib;
        let goes_on = ended.status == 0 && !self.timed_out;
        let next = self.chain.as_mut().filter(|_| goes_on).and_then(|chain| chain.rest.pop_front());
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
            // The end of the session has hung the old one up.
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

    /// Takes what is left after the end. The final reply comes once there is nothing left.
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

    /// The pipes that processes which were left behind still write to.
    pub(super) fn take_left(&mut self) -> [Option<Fd>; 2] {
        [self.stdout.take_left(), self.stderr.take_left()]
    }

    /// Whether it is the running process `pid`.
    pub(super) fn runs(&self, pid: u32) -> bool {
        self.pid == pid && self.exit.is_none()
    }

    /// Gives the command no moment to itself: its input is still to come, and somebody waits to
    /// hear that it was started.
    pub(super) fn release_if_interactive(&mut self) {
        if self.stdin.is_open() {
            self.hold = None;
        }
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
            self.kill();
        }
    }

    /// Kills every process that it started, unless it has ended by itself.
    fn kill(&self) {
        if self.exit.is_some() {
            return;
        }
        let killed = self.group.as_ref().map(Group::kill);
        if !matches!(killed, Some(Ok(()))) {
            let _ = signal_group(self.pid, SIGKILL);
        }
    }

    /// Only a terminal has a size, and one that is gone needs none.
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
    /// A command that nobody waits for any more is ended, with all that it started.
    fn drop(&mut self) {
        self.kill();
    }
}
