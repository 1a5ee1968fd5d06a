//! Hooks: what runs between a restore and the first answer to a request. First the programs in a
//! folder of the guest, in the order of their names, then the action that the bake set.
//!
//! All machines of a snapshot share the random state that their programs drew before it. Hooks let
//! the programs draw it again. Invariant: requests are held while hooks run, and refused once one
//! has failed. This module decides what is to be done; the server does it.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::mem;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::{Action, AfterRestore, Command, ExitStatus, Failure, Request};

use super::entrypoint::Entrypoint;
use super::slab::Key;
use super::stream::Stream;
use crate::cgroup::Group;
use crate::child::exit;
use crate::failure::{OrFailure, failure};
use crate::place::path;
use crate::ports;
use crate::sys::fd::{self, Fd, read_now};
use crate::sys::poll::{self, Epoll};
use crate::sys::process::{ExitedChild, SIGKILL, signal_group};
use crate::sys::{Errno, mount, tree};

/// The folder with programs.
const FOLDER: &[u8] = b"/etc/supermachine/after-restore.d";
const PARENT: &CStr = c"/etc/supermachine";
const GRANDPARENT: &CStr = c"/etc";
/// How much of a failed hook's output its error shows, in bytes.
const SHOWN_OUTPUT: usize = 900;
/// Reads of a program's output after its exit: enough for the largest pipe.
const REST_READS: usize = 16;
/// How often a restart looks whether processes have exited and ports listen, in nanoseconds.
const POLL: u64 = MILLISECOND;
const MILLISECOND: u64 = 1_000_000;
/// How long the entrypoint has to exit before a restart kills it, in nanoseconds.
const STOP: u64 = 10_000_000_000;
/// Ports from here on are picked by the kernel, and a restarted program gets others.
const PICKED_PORTS: u16 = 32768;

/// The hooks. See the module.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    folder: Folder,
    run: Option<Run>,
    failure: Option<Failure>,
    /// Requests that arrived while hooks run.
    held: Vec<(Key, Stream, Request)>,
}

/// Whether the folder may exist. Each look at a path touches pages that a restore otherwise does
/// not, so the agent looks again only after something was created in `/etc`.
#[derive(Debug, Default)]
struct Folder {
    may_exist: bool,
    watch: Option<Fd>,
}

/// The hooks of one restore.
#[derive(Debug)]
struct Run {
    /// The signal that stops the entrypoint before mounts are set up.
    stop_first: Option<u8>,
    programs: VecDeque<Vec<u8>>,
    action: Option<Action>,
    /// The time limit of each step, in nanoseconds.
    timeout: u64,
    step: Step,
    deadline: u64,
    /// The last step that the server was asked to do, for an error.
    attempt: String,
}

/// What the server does next.
#[derive(Debug)]
pub(super) enum Next {
    /// Waits for a process, or until [`Hooks::next_moment`].
    Wait,
    /// Starts a program, and passes it to [`Hooks::started`].
    Start(Command),
    /// Reads and discards what processes that a program left behind still write.
    Drain(Fd),
    /// Sends the entrypoint a signal.
    Signal(u8),
    /// Kills the entrypoint with all of its processes, and waits.
    Kill,
    /// Starts the entrypoint anew.
    Restart,
    /// Sets up mounts, which the entrypoint finds when it starts anew, and calls [`Hooks::look_again`].
    SetUp,
    /// Answers requests: all hooks have succeeded.
    Finish,
    /// Refuses requests.
    Refuse(Failure),
}

/// A program that was started for a hook.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: u32,
    pub(super) started: u64,
    pub(super) group: Option<Group>,
    pub(super) output: Fd,
}

#[derive(Debug)]
enum Step {
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
    /// The entrypoint has been started anew.
    Ports(Vec<u16>),
}

/// A running program.
#[derive(Debug)]
struct Program {
    name: String,
    pid: u32,
    started: u64,
    group: Option<Group>,
    output: Option<Fd>,
    /// The end of its output.
    tail: Vec<u8>,
    exit: Option<ExitStatus>,
}

impl Hooks {
    /// Starts the hooks of a restore. Forgets those of an earlier one: the machine was captured while they
    /// ran, or after one had failed. Returns the keys of requests that were held, whose streams exist no
    /// more. With `stop_first`, mounts are set up first, while no entrypoint runs: it is the signal that stops it,
    /// and it starts anew if it ran.
    pub(super) fn begin(
        &mut self,
        after_restore: Option<&AfterRestore>,
        stop_first: Option<u8>,
    ) -> Vec<Key> {
        if let Some(run) = self.run.take() {
            run.kill();
        }
        self.failure = None;
        let (programs, step) = match self.folder.programs() {
            Ok(programs) => (programs, Step::Next),
            Err(failure) => (Vec::new(), Step::Broken(broken_folder(&failure))),
        };
        let after_restore = after_restore.cloned().unwrap_or_default();
        let has_steps =
            !programs.is_empty() || after_restore.action.is_some() || stop_first.is_some();
        if has_steps || matches!(step, Step::Broken(_)) {
            self.run = Some(Run {
                stop_first,
                programs: programs.into(),
                action: after_restore.action,
                timeout: after_restore.timeout_ms.saturating_mul(MILLISECOND),
                step,
                deadline: u64::MAX,
                attempt: String::new(),
            });
        }
        mem::take(&mut self.held).into_iter().map(|(key, ..)| key).collect()
    }

    /// Ends the hooks. Returns the requests that were held.
    pub(super) fn end_all(&mut self, failure: Option<Failure>) -> Vec<(Key, Stream, Request)> {
        if let Some(run) = self.run.take() {
            run.kill();
        }
        self.failure = failure;
        mem::take(&mut self.held)
    }

    /// What is to be done now.
    pub(super) fn next(
        &mut self,
        now: u64,
        entrypoint: Option<&Entrypoint>,
        scratch: &mut [u8],
    ) -> Next {
        let Some(run) = &mut self.run else { return Next::Finish };
        run.next(now, entrypoint, scratch).unwrap_or_else(|text| Next::Refuse(hook_failure(text)))
    }

    /// Continues with the programs that are in the folder once mounts are set up.
    pub(super) fn look_again(&mut self) {
        self.adopt_folder();
        let programs = self.folder.programs();
        let Some(run) = &mut self.run else { return };
        match programs {
            Ok(programs) => run.programs = programs.into(),
            Err(failure) => run.step = Step::Broken(broken_folder(&failure)),
        }
    }

    /// Takes the program that [`Next::Start`] asked for.
    pub(super) fn started(&mut self, started: Started) {
        let Some(run) = &mut self.run else { return };
        let Started { pid, started, group, output } = started;
        let (name, output) = (mem::take(&mut run.attempt), Some(output));
        run.step = Step::Program(Program {
            name,
            pid,
            started,
            group,
            output,
            tail: Vec::new(),
            exit: None,
        });
    }

    /// The failure of a hook whose step the server could not do.
    pub(super) fn explain(&self, failure: &Failure) -> Failure {
        let attempt = self.run.as_ref().map_or("", |run| &run.attempt);
        hook_failure(format!("{attempt}: {failure}"))
    }

    /// Whether requests must wait.
    pub(super) fn is_running(&self) -> bool {
        self.run.is_some()
    }

    /// Why the machine must not be used.
    pub(super) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Keeps a request until all hooks have succeeded.
    pub(super) fn hold(&mut self, key: Key, mut stream: Stream, request: Request, epoll: &Epoll) {
        stream.unwatch(epoll);
        self.held.push((key, stream, request));
    }

    /// Looks for the folder in the container's root, and watches for it.
    pub(super) fn adopt_folder(&mut self) {
        self.folder.adopt();
    }

    /// Looks for the folder if it may have been created. Called before a capture, so that restores need
    /// not.
    pub(super) fn look(&mut self) {
        self.folder.look();
    }

    /// Reads the running program's output.
    pub(super) fn read(&mut self, scratch: &mut [u8]) {
        if let Some(Run { step: Step::Program(program), .. }) = &mut self.run {
            program.read(scratch);
        }
    }

    /// Records the exit of the running program. Returns `false` if the process is another.
    pub(super) fn end(&mut self, ended: &ExitedChild) -> bool {
        match &mut self.run {
            Some(Run { step: Step::Program(program), .. }) if program.pid == ended.pid => {
                program.exit = Some(exit(ended, program.started, 0, false).status);
                true
            }
            _ => false,
        }
    }

    /// The next moment at which [`Hooks::next`] is due.
    pub(super) fn next_moment(&self, now: u64) -> Option<u64> {
        let run = self.run.as_ref()?;
        Some(match run.step {
            Step::Program(_) => run.deadline,
            _ => run.deadline.min(now.saturating_add(POLL)),
        })
    }
}

impl Folder {
    fn adopt(&mut self) {
        // Watches first, so that nothing is missed.
        self.watch = poll::watch_directory(GRANDPARENT).ok();
        self.may_exist = self.watch.is_none() || mount::status(PARENT).is_ok();
    }

    fn look(&mut self) {
        let has_news = |watch: &Fd| !matches!(fd::read(watch, &mut [0; 512]), Err(Errno::EAGAIN));
        if !self.may_exist && self.watch.as_ref().is_some_and(has_news) {
            self.adopt();
        }
    }

    fn programs(&mut self) -> Result<Vec<Vec<u8>>, Failure> {
        self.look();
        if self.may_exist { executables(FOLDER) } else { Ok(Vec::new()) }
    }
}

/// The executable files in a folder, sorted by name, without hidden ones. Empty if there is no folder.
pub(super) fn executables(folder: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    let names = match tree::names(&path(folder)?) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Vec::new(),
        names => names.or_failure("open", folder)?,
    };
    let visible = names.into_iter().filter(|name| !name.starts_with(b"."));
    let paths = visible.map(|name| [folder, b"/", &name].concat());
    let is_executable = |file: &Vec<u8>| {
        let status = path(file).ok().and_then(|file| mount::status(&file).ok());
        status.is_some_and(|status| {
            let mode = u32::from(status.stx_mode);
            mode & nr::S_IFMT == nr::S_IFREG && mode & 0o111 != 0
        })
    };
    Ok(paths.filter(is_executable).collect())
}

impl Program {
    fn read(&mut self, scratch: &mut [u8]) -> bool {
        let Some(output) = &self.output else { return false };
        match read_now(output, scratch) {
            Ok(count) if count > 0 => {
                self.tail.extend_from_slice(scratch.split_at(count).0);
                self.tail.drain(..self.tail.len().saturating_sub(SHOWN_OUTPUT));
                true
            }
            Err(Errno::EAGAIN | Errno::EINTR) => false,
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
    fn next(
        &mut self,
        now: u64,
        entrypoint: Option<&Entrypoint>,
        scratch: &mut [u8],
    ) -> Result<Next, String> {
        match mem::replace(&mut self.step, Step::Next) {
            Step::Next => self.next_step(now, entrypoint),
            Step::Broken(text) => Err(text),
            Step::Program(program) => match self.follow(program, now, scratch)? {
                Some(next) => Ok(next),
                None => self.next_step(now, entrypoint),
            },
            Step::Stop { ports, sets_up: true, .. }
                if entrypoint.is_none_or(Entrypoint::is_gone) =>
            {
                self.step = Step::Start(ports);
                Ok(Next::SetUp)
            }
            Step::Start(ports) => Ok(self.restart(ports)),
            Step::Stop { ports, kill_at, sets_up } => {
                if entrypoint.is_none_or(Entrypoint::is_gone) {
                    return Ok(self.restart(ports));
                }
                if now >= self.deadline {
                    return Err("the entrypoint does not exit for its restart".into());
                }
                let has_exited = entrypoint.is_some_and(|entrypoint| entrypoint.exit.is_some());
                self.step = Step::Stop { ports, kill_at, sets_up };
                Ok(if has_exited || now >= kill_at { Next::Kill } else { Next::Wait })
            }
            Step::Ports(ports) => {
                if has_ports(&ports, entrypoint)? {
                    return self.next_step(now, entrypoint);
                }
                if now >= self.deadline {
                    let name = "the restarted entrypoint, which does not listen as before,";
                    return Err(self.late(name, &tail_of(entrypoint)));
                }
                self.step = Step::Ports(ports);
                Ok(Next::Wait)
            }
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
        match program.exit {
            // Processes that it left behind live on.
            Some(ExitStatus::Code(0)) => Ok(program.output.map(Next::Drain)),
            Some(status) => {
                Err(format!("{} {}; {}", program.name, ended(status), wrote(&program.tail)))
            }
            None => {
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

    /// Has the entrypoint start anew.
    fn restart(&mut self, ports: Vec<u16>) -> Next {
        self.step = Step::Ports(ports);
        self.attempt = "the restart of the entrypoint".into();
        Next::Restart
    }

    /// Kills what it runs.
    fn kill(&self) {
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
    match entrypoint.and_then(|entrypoint| entrypoint.exit) {
        None => Ok(false),
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

fn broken_folder(failure: &Failure) -> String {
    format!("the folder of hooks: {failure}")
}

fn hook_failure(text: String) -> Failure {
    failure("after-restore", text, Errno(0))
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
