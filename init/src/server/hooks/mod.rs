//! Hooks: what runs between a restore and the first answer to a request. First the programs in a
//! folder of the guest, in the order of their names, then the action that the bake set.
//!
//! All machines of a snapshot share the random state that their programs drew before it. Hooks let
//! the programs draw it again. Invariant: requests are held while hooks run, and refused once one
//! has failed. This module decides what is to be done; the server does it.

mod run;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::mem;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::{Failure, Request};

use self::run::{MILLISECOND, Program, Run, Step};
pub(super) use self::run::{Next, Started};
use super::entrypoint::Entrypoint;
use super::slab::Key;
use super::stream::Stream;
use crate::child::exit;
use crate::container::Container;
use crate::failure::{OrFailure, failure_of_no_call};
use crate::place::path;
use crate::sys::fd::{self, Fd};
use crate::sys::poll::{self, Epoll};
use crate::sys::process::ExitedChild;
use crate::sys::{Errno, mount, tree};

/// The folder with programs.
const FOLDER: &[u8] = b"/etc/supermachine/after-restore.d";
const PARENT: &CStr = c"/etc/supermachine";
const GRANDPARENT: &CStr = c"/etc";
/// How often a restart looks whether processes have exited and ports listen, in nanoseconds.
const POLL: u64 = MILLISECOND;

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

impl Hooks {
    /// Starts the hooks of a restore. Forgets those of an earlier one: the machine was captured while they
    /// ran, or after one had failed. Returns the keys of requests that were held, whose streams exist no
    /// more. With `stop_first`, mounts are set up first, while no entrypoint runs: it is the signal that stops it,
    /// and it starts anew if it ran.
    pub(super) fn begin(
        &mut self,
        container: Option<&Container>,
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
        let after_restore = container.map(Container::after_restore).cloned().unwrap_or_default();
        let readiness = container.map(Container::readiness).cloned().unwrap_or_default();
        let has_steps =
            !programs.is_empty() || after_restore.action.is_some() || stop_first.is_some();
        if has_steps || matches!(step, Step::Broken(_)) {
            self.run = Some(Run {
                stop_first,
                readiness,
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
        let has_news = |watch: &Fd| !matches!(fd::read(watch, &mut [0; 512]), Err(Errno::AGAIN));
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
        Err(Errno::NOENT | Errno::NOTDIR) => Vec::new(),
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

fn broken_folder(failure: &Failure) -> String {
    format!("the folder of hooks: {failure}")
}

fn hook_failure(text: String) -> Failure {
    failure_of_no_call("after-restore", text)
}
