//! The container's main process: its recent output and its exit.

use supermachine_formats::wire::Exit;

use crate::cgroup::Group;
use crate::child::{Child, exit};
use crate::log::{Log, Stream};
use crate::sys::fd::{Fd, read_now};
use crate::sys::process::{ExitedChild, SIGKILL, signal_group};
use crate::sys::{Errno, clock};

/// Reads per pipe after the program's exit: enough for the largest pipe.
const REST_READS: usize = 16;

/// The entrypoint, running or exited.
#[derive(Debug)]
pub(super) struct Entrypoint {
    pub(super) pid: u32,
    started: u64,
    pub(super) stdout: Option<Fd>,
    pub(super) stderr: Option<Fd>,
    pub(super) log: Log,
    /// The position of its first output.
    first: u64,
    pub(super) exit: Option<Exit>,
    /// Where all of its processes are.
    group: Option<Group>,
    /// Whether it is PID 1 of namespaces of its own.
    pub(super) is_init: bool,
}

impl Entrypoint {
    pub(super) fn new(child: Child, group: Option<Group>, is_init: bool) -> Self {
        Self {
            pid: child.pid,
            started: child.started,
            stdout: Some(child.ends.stdout),
            stderr: child.ends.stderr,
            log: Log::default(),
            first: 0,
            exit: None,
            group,
            is_init,
        }
    }

    /// Continues the log of an earlier one.
    pub(super) fn continue_log(&mut self, log: Log) {
        self.first = log.end();
        self.log = log;
    }

    /// Whether it has written a text.
    pub(super) fn has_written(&self, text: &[u8]) -> bool {
        self.log.contains(text, self.first)
    }

    /// Reads one piece of output. Returns `false` if there was none.
    pub(super) fn pump(&mut self, stream: Stream, scratch: &mut [u8]) -> bool {
        let pipe = match stream {
            Stream::Out => &mut self.stdout,
            Stream::Err => &mut self.stderr,
        };
        let Some(fd) = pipe.as_ref() else { return false };
        match read_now(fd, scratch) {
            Ok(count) if count > 0 => {
                self.log.push(stream, scratch.split_at(count).0);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            // The end of the pipe: every writer has closed it.
            _ => {
                *pipe = None;
                false
            }
        }
    }

    /// Whether the agent uses its namespaces now.
    pub(super) fn is_joined(&self) -> bool {
        self.is_init && self.exit.is_none()
    }

    /// Whether it has exited and left no process behind.
    pub(super) fn is_gone(&self) -> bool {
        self.exit.is_some() && self.group.as_ref().is_none_or(Group::is_empty)
    }

    /// Kills it with all of its processes.
    pub(super) fn kill(&self) {
        let killed = self.group.as_ref().map(Group::kill);
        if !matches!(killed, Some(Ok(()))) && self.exit.is_none() {
            let _ = signal_group(self.pid, SIGKILL);
        }
    }

    /// Records the exit. Reads the remaining output first; processes that it left behind may continue
    /// to write.
    pub(super) fn end(&mut self, ended: &ExitedChild, scratch: &mut [u8]) {
        for stream in [Stream::Out, Stream::Err] {
            let mut reads = 0;
            while reads < REST_READS && self.pump(stream, scratch) {
                reads += 1;
            }
        }
        self.exit = Some(exit(ended, self.started, clock::monotonic(), false));
    }
}
