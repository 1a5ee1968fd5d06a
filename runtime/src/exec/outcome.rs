//! The result of a command.

use std::time::Duration;

use supermachine_formats::wire::{self, Exit};

use super::conversation::TakenOutput;
use crate::Error;
use crate::error::TransferError;
use crate::machine::StreamError;

/// A command's result, and its output.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecOutcome {
    /// Its exit code, or the signal that killed it.
    pub status: ExitStatus,
    /// Its standard output, if it was collected.
    pub stdout: Vec<u8>,
    /// Its standard error, if it was collected.
    pub stderr: Vec<u8>,
    /// Its run time, as measured in the guest.
    pub duration: Duration,
    /// Whether its timeout killed it.
    pub timed_out: bool,
    /// Its peak resident memory, in KiB. The guest's kernel counts in steps of 128 KiB for each
    /// processor, so a small program may show 0.
    pub peak_rss_kib: u64,
}

impl ExecOutcome {
    /// An outcome without output.
    pub(crate) fn of(end: Result<Exit, StreamError>) -> Result<Self, Error> {
        let exit = end.map_err(StreamError::into_error)?;
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

    /// The exit code; `None` if a signal killed the process.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        match self.0 {
            wire::ExitStatus::Code(code) => Some(code.into()),
            wire::ExitStatus::Signal(_) => None,
        }
    }

    /// The signal that killed the process, if one did.
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

/// The collected output of a command.
#[derive(Debug)]
pub(crate) struct CollectedOutput {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// The limit on each stream.
    limit: usize,
}

impl CollectedOutput {
    pub(crate) fn new(limit: usize) -> Self {
        Self { stdout: Vec::new(), stderr: Vec::new(), limit }
    }

    /// Adds output, within the limit.
    pub(crate) fn add(&mut self, taken: &TakenOutput) -> Result<(), Error> {
        let streams = [
            (&mut self.stdout, &taken.stdout, "standard output"),
            (&mut self.stderr, &taken.stderr, "standard error"),
        ];
        for (kept, bytes, stream) in streams {
            if kept.len() + bytes.len() > self.limit {
                return Err(Error::Transfer {
                    source: TransferError::OutputTooLarge { stream, limit: self.limit },
                });
            }
            kept.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// The outcome with the collected output.
    pub(crate) fn into_outcome(self, outcome: ExecOutcome) -> ExecOutcome {
        ExecOutcome { stdout: self.stdout, stderr: self.stderr, ..outcome }
    }
}
