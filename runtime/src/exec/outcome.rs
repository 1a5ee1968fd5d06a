//! How a command ended.

use std::time::Duration;

use supermachine_formats::wire::{self, Exit};

use super::conversation::Taken;
use crate::Error;
use crate::agent::End;

/// How a command ended, and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecOutcome {
    /// Its exit code or the signal that ended it.
    pub status: ExitStatus,
    /// What it wrote to standard output, if it was collected.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, if it was collected.
    pub stderr: Vec<u8>,
    /// From its start to its end, as measured in the guest.
    pub duration: Duration,
    /// Whether its time-out ended it.
    pub timed_out: bool,
    /// The most memory that it had resident at once, in KiB. The guest's kernel counts in steps
    /// of 128 KiB for each processor, so that a small program may have none; pages of the
    /// image's files are mapped and take no memory.
    pub peak_rss_kib: u64,
}

impl ExecOutcome {
    /// That of a command that ended so, without output.
    pub(crate) fn of(end: Result<Exit, End>) -> Result<Self, Error> {
        let exit = end.map_err(End::into_error)?;
        Ok(Self {
            status: ExitStatus(exit.status),
            stdout: Vec::new(),
            stderr: Vec::new(),
            duration: Duration::from_micros(exit.duration_us),
            timed_out: exit.timed_out,
            peak_rss_kib: exit.peak_rss_kib,
        })
    }

    /// Whether the command returned 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }
}

/// An exit code or a signal, in the manner of [`std::process::ExitStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus(pub(crate) wire::ExitStatus);

impl ExitStatus {
    /// Whether the process returned 0.
    #[must_use]
    pub fn success(self) -> bool {
        self.code() == Some(0)
    }

    /// What the process returned; none if a signal ended it.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        match self.0 {
            wire::ExitStatus::Code(code) => Some(code.into()),
            wire::ExitStatus::Signal(_) => None,
        }
    }

    /// The signal that ended the process, if one did.
    #[must_use]
    pub fn signal(self) -> Option<i32> {
        match self.0 {
            wire::ExitStatus::Code(_) => None,
            wire::ExitStatus::Signal(signal) => Some(signal.into()),
        }
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            wire::ExitStatus::Code(code) => write!(f, "exit code {code}"),
            wire::ExitStatus::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What is kept of a command's output.
#[derive(Debug)]
pub(crate) struct Kept {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// The most of each stream.
    limit: usize,
}

impl Kept {
    pub(crate) fn new(limit: usize) -> Self {
        Self { stdout: Vec::new(), stderr: Vec::new(), limit }
    }

    /// Keeps what was taken out, if it is not too much.
    pub(crate) fn add(&mut self, taken: &Taken) -> Result<(), Error> {
        let streams = [
            (&mut self.stdout, &taken.stdout, "standard output"),
            (&mut self.stderr, &taken.stderr, "standard error"),
        ];
        for (kept, bytes, stream) in streams {
            if kept.len() + bytes.len() > self.limit {
                return Err(Error::OutputTooLarge { stream, limit: self.limit });
            }
            kept.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// The outcome with what was kept.
    pub(crate) fn into_outcome(self, outcome: ExecOutcome) -> ExecOutcome {
        ExecOutcome { stdout: self.stdout, stderr: self.stderr, ..outcome }
    }
}
