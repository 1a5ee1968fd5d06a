//! A command that runs.

use std::io::{self, Read, Write};
use std::sync::Arc;

use supermachine_formats::wire::{Input, Output, WindowSize};

use super::conversation::Conversation;
use super::outcome::ExecOutcome;
use super::session::Session;
use crate::Error;
use crate::vm::signal_number;

/// What kills, not to be caught.
pub(crate) const SIGKILL: i32 = 9;

/// A running command, in the manner of [`std::process::Child`].
///
/// When it is dropped, the command and its process group are killed, and its streams end with an
/// error. It does not keep the machine alive: when that ends, so does everything here, with
/// [`Error::Guest`] or [`Error::Stopped`].
///
/// Output that nobody reads stays in the guest, and a command whose pipe is full waits. So take
/// both streams and read them, or use [`wait_with_output`](Self::wait_with_output); each can be
/// read by a thread of its own, and none has to wait for the other.
#[derive(Debug)]
pub struct ExecChild {
    session: Arc<Session>,
    stdin: Option<ExecStdin>,
    stdout: Option<ExecStdout>,
    stderr: Option<ExecStderr>,
    max_output: usize,
}

impl ExecChild {
    pub(super) fn new(session: Arc<Session>, max_output: usize) -> Self {
        let share = || Arc::clone(&session);
        Self {
            stdin: Some(ExecStdin { session: share() }),
            stdout: Some(ExecStdout { session: share() }),
            stderr: Some(ExecStderr { session: share() }),
            session,
            max_output,
        }
    }

    /// Its standard input; none if it was taken before. Dropping it ends the input.
    pub fn stdin(&mut self) -> Option<ExecStdin> {
        self.stdin.take()
    }

    /// Its standard output; none if it was taken before. Dropping it closes the pipe.
    pub fn stdout(&mut self) -> Option<ExecStdout> {
        self.stdout.take()
    }

    /// Its standard error; none if it was taken before. Dropping it closes the pipe. On a
    /// terminal it stays empty.
    pub fn stderr(&mut self) -> Option<ExecStderr> {
        self.stderr.take()
    }

    /// Waits for the command's end. Its input is ended before, if it was not taken. The outcome
    /// holds no output.
    ///
    /// As with [`std::process::Child::wait`], a command whose output nobody reads never ends once
    /// its pipe is full.
    ///
    /// # Errors
    /// Those of [`output`](crate::ExecBuilder::output).
    pub fn wait(&mut self) -> Result<ExecOutcome, Error> {
        drop(self.stdin.take());
        ExecOutcome::of(self.session.wait(|talk| talk.exit()))
    }

    /// How the command ended, if it has. Does not wait.
    ///
    /// # Errors
    /// Those of [`wait`](Self::wait).
    pub fn try_wait(&mut self) -> Result<Option<ExecOutcome>, Error> {
        self.session.take_arrived();
        let exit =
            self.session.now(|talk| talk.exit()).map_err(|source| Error::Stream { source })?;
        exit.map(ExecOutcome::of).transpose()
    }

    /// Ends the input if it was not taken, waits for the command's end, and collects what it
    /// writes to the streams that were not taken.
    ///
    /// # Errors
    /// Those of [`output`](crate::ExecBuilder::output).
    pub fn wait_with_output(mut self) -> Result<ExecOutcome, Error> {
        drop(self.stdin.take());
        self.session.collect(self.stdout.is_some(), self.stderr.is_some(), self.max_output)
    }

    /// Kills the command and its process group. One that has ended needs no killing.
    ///
    /// # Errors
    /// The stream to the guest failed.
    pub fn kill(&self) -> Result<(), Error> {
        self.signal(SIGKILL)
    }

    /// Sends a signal to the command's process group. One that has ended is told nothing.
    ///
    /// # Errors
    /// The number is no signal, or the stream to the guest failed.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        self.signaler().signal(signal)
    }

    /// A handle that sends signals, also from another thread.
    #[must_use]
    pub fn signaler(&self) -> ExecSignaler {
        ExecSignaler { session: Arc::clone(&self.session) }
    }

    /// Sets the terminal's size, in characters. Without a terminal nothing happens.
    ///
    /// # Errors
    /// The stream to the guest failed.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        self.signaler().resize(rows, columns)
    }
}

impl Drop for ExecChild {
    fn drop(&mut self) {
        self.session.abandon();
    }
}

/// Sends signals to a command. It may outlive the [`ExecChild`], and then does nothing.
#[derive(Debug, Clone)]
pub struct ExecSignaler {
    session: Arc<Session>,
}

impl ExecSignaler {
    /// Sends a signal to the command's process group. One that has ended is told nothing.
    ///
    /// # Errors
    /// The number is no signal, or the stream to the guest failed.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        self.tell(&Input::Signal(signal_number(signal)?))
    }

    /// Sets the terminal's size, in characters. Without a terminal nothing happens.
    ///
    /// # Errors
    /// The stream to the guest failed.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        self.tell(&Input::Resize(WindowSize { rows, columns }))
    }

    fn tell(&self, input: &Input) -> Result<(), Error> {
        self.session.now(|talk| talk.tell(input)).map_err(|source| Error::Stream { source })
    }
}

/// A command's standard input. Dropping it ends the input; on a terminal, it types ^D.
///
/// Writing waits while the program does not read, and fails with
/// [`BrokenPipe`](io::ErrorKind::BrokenPipe) once it has closed its input or ended.
#[derive(Debug)]
pub struct ExecStdin {
    session: Arc<Session>,
}

impl ExecStdin {
    /// Closes the input, so that the command reads end of file. Dropping it does the same, but
    /// ignores errors.
    ///
    /// # Errors
    /// The connection to the machine is broken.
    pub fn close(self) -> io::Result<()> {
        self.session.now(Conversation::end_input)
    }
}

impl Write for ExecStdin {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Whether the program still reads, and has not ended, is to be known before.
        self.session.take_arrived();
        self.session.wait(|talk| talk.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ExecStdin {
    fn drop(&mut self) {
        // A command that has ended needs no end of its input.
        let _ = self.session.now(Conversation::end_input);
    }
}

/// A command's standard output. It ends when the command has.
#[derive(Debug)]
pub struct ExecStdout {
    session: Arc<Session>,
}

impl Read for ExecStdout {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.session.wait(|talk| talk.read(Output::Stdout, space))
    }
}

impl Drop for ExecStdout {
    fn drop(&mut self) {
        // A stream that has ended has no flow either.
        let _ = self.session.now(|talk| talk.close(Output::Stdout));
    }
}

/// A command's standard error. It ends when the command has.
#[derive(Debug)]
pub struct ExecStderr {
    session: Arc<Session>,
}

impl Read for ExecStderr {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.session.wait(|talk| talk.read(Output::Stderr, space))
    }
}

impl Drop for ExecStderr {
    fn drop(&mut self) {
        // A stream that has ended has no flow either.
        let _ = self.session.now(|talk| talk.close(Output::Stderr));
    }
}
