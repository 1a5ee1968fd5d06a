//! The steps of one restore's hooks.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::mem;

use supermachine_formats::wire::{Action, Command, ExitStatus, Failure, Readiness};

use crate::cgroup::Group;
use crate::ports;
use crate::server::entrypoint::Entrypoint;
use crate::sys::Errno;
use crate::sys::fd::{Fd, read_now};
use crate::sys::process::{SIGKILL, signal_group};

pub(super) const MILLISECOND: u64 = 1_000_000;
/// How much of a failed hook's output its error shows, in bytes.
const SHOWN_OUTPUT: usize = 900;
/// Reads of a program's output after its exit: enough for the largest pipe.
const REST_READS: usize = 16;
/// How long the entrypoint has to exit before a restart kills it, in nanoseconds.
const STOP: u64 = 10_000_000_000;
/// Ports from here on are picked by the kernel, and a restarted program gets others.
const PICKED_PORTS: u16 = 32768;

/// What the server does next.
#[derive(Debug)]
pub(in crate::server) enum Next {
    /// Waits for a process, or until [`Hooks::next_moment`](super::Hooks::next_moment).
    Wait,
    /// Starts a program, and passes it to [`Hooks::started`](super::Hooks::started).
    Start(Command),
    /// Reads and discards what processes that a program left behind still write.
    Drain(Fd),
    /// Sends the entrypoint a signal.
    Signal(u8),
    /// Kills the entrypoint with all of its processes, and waits.
    Kill,
    /// Starts the entrypoint anew.
    Restart,
    /// Sets up mounts, which the entrypoint finds when it starts anew, and calls [`Hooks::look_again`](super::Hooks::look_again).
    SetUp,
    /// Answers requests: all hooks have succeeded.
    Finish,
    /// Refuses requests.
    Refuse(Failure),
}

/// A program that was started for a hook.
#[derive(Debug)]
pub(in crate::server) struct Started {
    pub(in crate::server) pid: u32,
    pub(in crate::server) started: u64,
    pub(in crate::server) group: Option<Group>,
    pub(in crate::server) output: Fd,
}

/// The hooks of one restore.
#[derive(Debug)]
pub(super) struct Run {
    /// The signal that stops the entrypoint before mounts are set up.
    pub(super) stop_first: Option<u8>,
    pub(super) programs: VecDeque<Vec<u8>>,
    pub(super) action: Option<Action>,
    /// When an entrypoint that was started anew is ready.
    pub(super) readiness: Readiness,
    /// The time limit of each step, in nanoseconds.
    pub(super) timeout: u64,
    pub(super) step: Step,
    pub(super) deadline: u64,
    /// The last step that the server was asked to do, for an error.
    pub(super) attempt: String,
}

#[derive(Debug)]
pub(super) enum Step {
    Next,
    /// The folder cannot be read.
    Broken(String),
    Program(Program),
    /// The entrypoint has been asked to exit.
    Stop {
        ports: Vec<u16>,
        kill_at: u64,
        /// Whether mounts are set up before it starts anew.
        sets_up: bool,
    },
    /// The mounts are set up.
    Start(Vec<u16>),
    /// The entrypoint has been started anew, and listened on these ports.
    Ports(Vec<u16>),
    /// It listens on them, and is ready once that holds.
    Ready(Readiness),
}

/// A running program.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) started: u64,
    pub(super) group: Option<Group>,
    pub(super) output: Option<Fd>,
    /// The end of its output.
    pub(super) tail: Vec<u8>,
    pub(super) exit: Option<ExitStatus>,
}

impl Program {
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> bool {
        let Some(output) = &self.output else { return false };
        match read_now(output, scratch) {
            Ok(count) if count > 0 => {
                self.tail.extend_from_slice(scratch.split_at(count).0);
                self.tail.drain(..self.tail.len().saturating_sub(SHOWN_OUTPUT));
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            _ => {
                self.output = None;
                false
            }
        }
    }

    fn kill(&self) {
        let killed = self.group.as_ref().map(Group::kill);
        if !matches!(killed, Some(Ok(()))) {
            let _ = signal_group(self.pid, SIGKILL);
        }
    }
}

impl Run {
    /// What the server does next.
    ///
    /// # Errors
    /// Why the hooks have failed.
    pub(super) fn next(
        &mut self,
        now: u64,
        entrypoint: Option<&Entrypoint>,
        scratch: &mut [u8],
    ) -> Result<Next, String> {
        let is_gone = entrypoint.is_none_or(Entrypoint::is_gone);
        match mem::replace(&mut self.step, Step::Next) {
            Step::Next => self.next_step(now, entrypoint),
            Step::Broken(text) => Err(text),
            Step::Program(program) => match self.follow(program, now, scratch)? {
                Some(next) => Ok(next),
                None => self.next_step(now, entrypoint),
            },
            Step::Stop { ports, sets_up: true, .. } if is_gone => {
                self.step = Step::Start(ports);
                Ok(Next::SetUp)
            }
            Step::Stop { ports, .. } if is_gone => Ok(self.restart(ports)),
            stop @ Step::Stop { .. } => self.wait_for_exit(stop, now, entrypoint),
            Step::Start(ports) => Ok(self.restart(ports)),
            Step::Ports(ports) => {
                if !has_ports(&ports, entrypoint)? {
                    return self.wait_until(Step::Ports(ports), now, entrypoint);
                }
                self.step = Step::Ready(mem::take(&mut self.readiness));
                self.next(now, entrypoint, scratch)
            }
            Step::Ready(Readiness::Writes(text)) => {
                if entrypoint.is_some_and(|entrypoint| entrypoint.has_written(&text)) {
                    return self.next_step(now, entrypoint);
                }
                check_runs(entrypoint)?;
                self.wait_until(Step::Ready(Readiness::Writes(text)), now, entrypoint)
            }
            Step::Ready(Readiness::Answers(argv)) => {
                check_runs(entrypoint)?;
                self.readiness = Readiness::Answers(argv.clone());
                Ok(self.start(Command { argv, ..Command::default() }))
            }
            Step::Ready(_) => self.next_step(now, entrypoint),
        }
    }

    fn next_step(&mut self, now: u64, entrypoint: Option<&Entrypoint>) -> Result<Next, String> {
        self.deadline = now.saturating_add(self.timeout);
        if let Some(signal) = self.stop_first.take() {
            if entrypoint.is_none_or(Entrypoint::is_gone) {
                return Ok(Next::SetUp);
            }
            // It starts anew in any case.
            self.action.take_if(|action| matches!(action, Action::Restart { .. }));
            return self.stop(signal, true, now, entrypoint);
        }
        if let Some(program) = self.programs.pop_front() {
            let (user, cwd) = (Some("0".into()), Some(b"/".to_vec()));
            return Ok(self.start(Command {
                argv: vec![program],
                user,
                cwd,
                ..Command::default()
            }));
        }
        match self.action.take() {
            None => Ok(Next::Finish),
            Some(Action::Exec(argv)) => Ok(self.start(Command { argv, ..Command::default() })),
            Some(Action::Signal(number)) => {
                self.attempt = format!("signal {number} to the entrypoint");
                Ok(Next::Signal(number))
            }
            Some(Action::Restart { signal }) => self.stop(signal, false, now, entrypoint),
            Some(_) => Err("the agent does not know the action".into()),
        }
    }

    fn start(&mut self, command: Command) -> Next {
        let name = command.argv.first().map_or(b"".as_slice(), Vec::as_slice);
        self.attempt = String::from_utf8_lossy(name).into_owned();
        Next::Start(command)
    }

    /// Waits for a program. Returns `None` once it has succeeded, and nothing is left to do for it.
    fn follow(
        &mut self,
        mut program: Program,
        now: u64,
        scratch: &mut [u8],
    ) -> Result<Option<Next>, String> {
        if program.exit.is_none() && now < self.deadline {
            self.step = Step::Program(program);
            return Ok(Some(Next::Wait));
        }
        let mut reads = 0;
        while reads < REST_READS && program.read(scratch) {
            reads += 1;
        }
        // Whether it was asked whether the entrypoint is ready.
        let asked = mem::take(&mut self.readiness);
        match (program.exit, asked) {
            // Processes that it left behind live on.
            (Some(ExitStatus::Code(0)), _) => Ok(program.output.map(Next::Drain)),
            (Some(_), asked @ Readiness::Answers(_)) if now < self.deadline => {
                self.step = Step::Ready(asked);
                Ok(Some(Next::Wait))
            }
            (Some(status), _) => {
                Err(format!("{} {}; {}", program.name, ended(status), wrote(&program.tail)))
            }
            (None, _) => {
                program.kill();
                Err(self.late(&program.name, &program.tail))
            }
        }
    }

    /// Has the entrypoint exit.
    fn stop(
        &mut self,
        signal: u8,
        sets_up: bool,
        now: u64,
        entrypoint: Option<&Entrypoint>,
    ) -> Result<Next, String> {
        let entrypoint = entrypoint.ok_or("there is no entrypoint to restart")?;
        let is_running = entrypoint.exit.is_none();
        let mut ports = Vec::new();
        if is_running {
            ports = ports::now(entrypoint.is_joined()).map_err(|failure| failure_text(&failure))?;
            ports.retain(|port| *port < PICKED_PORTS);
        }
        let kill_at = now.saturating_add(STOP.min(self.timeout / 2));
        self.step = Step::Stop { ports, kill_at, sets_up };
        self.attempt = format!("signal {signal} to the entrypoint");
        Ok(if is_running { Next::Signal(signal) } else { Next::Kill })
    }

    /// Waits until the entrypoint and what it left behind are gone, and kills them if they stay too long.
    fn wait_for_exit(
        &mut self,
        stop: Step,
        now: u64,
        entrypoint: Option<&Entrypoint>,
    ) -> Result<Next, String> {
        if now >= self.deadline {
            return Err("the entrypoint does not exit for its restart".into());
        }
        let has_exited = entrypoint.is_some_and(|entrypoint| entrypoint.exit.is_some());
        let is_late = matches!(stop, Step::Stop { kill_at, .. } if now >= kill_at);
        self.step = stop;
        Ok(if has_exited || is_late { Next::Kill } else { Next::Wait })
    }

    /// Has the entrypoint start anew.
    fn restart(&mut self, ports: Vec<u16>) -> Next {
        self.step = Step::Ports(ports);
        self.attempt = "the restart of the entrypoint".into();
        Next::Restart
    }

    /// Waits for the entrypoint, which has been started anew.
    fn wait_until(
        &mut self,
        step: Step,
        now: u64,
        entrypoint: Option<&Entrypoint>,
    ) -> Result<Next, String> {
        if now >= self.deadline {
            let what = match &step {
                Step::Ready(Readiness::Writes(text)) => {
                    format!("write {:?}", String::from_utf8_lossy(text))
                }
                _ => "listen as before".into(),
            };
            let name = format!("the restarted entrypoint, which does not {what},");
            return Err(self.late(&name, &tail_of(entrypoint)));
        }
        self.step = step;
        Ok(Next::Wait)
    }

    /// Kills what it runs.
    pub(super) fn kill(&self) {
        if let Step::Program(program) = &self.step {
            program.kill();
        }
    }

    /// The error of a step that took too long.
    fn late(&self, name: &str, output: &[u8]) -> String {
        let (limit, wrote) = (self.timeout / MILLISECOND, wrote(output));
        match limit % 1000 {
            0 => format!("{name} took longer than {} s; {wrote}", limit / 1000),
            _ => format!("{name} took longer than {limit} ms; {wrote}"),
        }
    }
}

/// Whether the restarted entrypoint listens on all of these ports.
fn has_ports(ports: &[u16], entrypoint: Option<&Entrypoint>) -> Result<bool, String> {
    if ports.is_empty() {
        return Ok(true);
    }
    let is_joined = entrypoint.is_some_and(Entrypoint::is_joined);
    let now = ports::now(is_joined).map_err(|failure| failure_text(&failure))?;
    if ports.iter().all(|port| now.contains(port)) {
        return Ok(true);
    }
    check_runs(entrypoint).map(|()| false)
}

/// Fails if the restarted entrypoint has exited.
fn check_runs(entrypoint: Option<&Entrypoint>) -> Result<(), String> {
    match entrypoint.and_then(|entrypoint| entrypoint.exit) {
        None => Ok(()),
        Some(exit) => Err(format!(
            "the restarted entrypoint {}; {}",
            ended(exit.status),
            wrote(&tail_of(entrypoint))
        )),
    }
}

fn tail_of(entrypoint: Option<&Entrypoint>) -> Vec<u8> {
    entrypoint.map(|entrypoint| entrypoint.log.tail(SHOWN_OUTPUT)).unwrap_or_default()
}

fn failure_text(failure: &Failure) -> String {
    format!("the restart of the entrypoint: {failure}")
}

fn ended(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exited with status {code}"),
        ExitStatus::Signal(signal) => format!("was killed by signal {signal}"),
    }
}

fn wrote(output: &[u8]) -> String {
    match String::from_utf8_lossy(output).trim() {
        "" => "it wrote nothing".into(),
        text => format!("it wrote: {text}"),
    }
}
