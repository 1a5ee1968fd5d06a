//! A running command.

use std::io::{self, Read, Write};
use std::sync::Arc;

use supermachine_formats::wire::{Input, Output, WindowSize};

use super::conversation::Conversation;
use super::outcome::ExecOutcome;
use super::session::Session;
use crate::Error;
use crate::agent::signal_number;

/// The signal that cannot be caught.
pub(crate) const SIGKILL: i32 = 9;

/// A running command, in the manner of [`std::process::Child`].
///
/// Dropping it kills the command and its process group, and fails its streams. It does not keep the
/// machine running: when the machine stops, all calls fail with [`Error::Guest`] or
/// [`Error::Stopped`].
///
/// Unread output stays in the guest, and a command whose pipe is full blocks. So read both streams,
/// or use [`wait_with_output`](Self::wait_with_output). Different threads may read them,
/// independently.
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

    /// Takes its standard input; `None` if it was taken. Dropping it closes the input.
    pub fn stdin(&mut self) -> Option<ExecStdin> {
        self.stdin.take()
    }

    /// Takes its standard output; `None` if it was taken. Dropping it closes the pipe.
    pub fn stdout(&mut self) -> Option<ExecStdout> {
        self.stdout.take()
    }

    /// Takes its standard error; `None` if it was taken. Dropping it closes the pipe. With a
    /// terminal it stays empty.
    pub fn stderr(&mut self) -> Option<ExecStderr> {
        self.stderr.take()
    }

    /// Waits for the command to exit, and closes its input first if it was not taken. The outcome
    /// holds no output.
    ///
    /// As with [`std::process::Child::wait`], a command whose pipe is full and unread never exits.
    ///
    /// # Errors
    /// Those of [`output`](crate::ExecBuilder::output).
    pub fn wait(&mut self) -> Result<ExecOutcome, Error> {
        drop(self.stdin.take());
        ExecOutcome::of(self.session.wait(|talk| talk.exit()))
    }

    /// The outcome, or `None` while the command runs. Does not block.
    ///
    /// # Errors
    /// Those of [`wait`](Self::wait).
    pub fn try_wait(&mut self) -> Result<Option<ExecOutcome>, Error> {
        self.session.take_arrived();
        let exit = self.session.now(|talk| talk.exit()).map_err(Error::stream)?;
        exit.map(ExecOutcome::of).transpose()
    }

    /// Closes the input if it was not taken, waits for the command to exit, and collects the output
    /// streams that were not taken.
    ///
    /// # Errors
    /// Those of [`output`](crate::ExecBuilder::output).
    pub fn wait_with_output(mut self) -> Result<ExecOutcome, Error> {
        drop(self.stdin.take());
        self.session.collect(self.stdout.is_some(), self.stderr.is_some(), self.max_output)
    }

    /// Kills the command and its process group. A no-op once it has exited.
    ///
    /// # Errors
    /// The stream to the guest failed.
    pub fn kill(&self) -> Result<(), Error> {
        self.signal(SIGKILL)
    }

    /// Sends a signal to the command's process group. A no-op once it has exited.
    ///
    /// # Errors
    /// The number is not a signal, or the stream to the guest failed.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        self.signaler().signal(signal)
    }

    /// A handle that sends signals, also from another thread.
    #[must_use]
    pub fn signaler(&self) -> ExecSignaler {
        ExecSignaler { session: Arc::clone(&self.session) }
    }

    /// Sets the terminal's size, in characters. A no-op without a terminal.
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

/// Sends signals to a command. It may outlive the [`ExecChild`], and is then a no-op.
#[derive(Debug, Clone)]
pub struct ExecSignaler {
    session: Arc<Session>,
}

impl ExecSignaler {
    /// Sends a signal to the command's process group. A no-op once it has exited.
    ///
    /// # Errors
    /// The number is not a signal, or the stream to the guest failed.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        self.tell(&Input::Signal(signal_number(signal)?))
    }

    /// Sets the terminal's size, in characters. A no-op without a terminal.
    ///
    /// # Errors
    /// The stream to the guest failed.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        self.tell(&Input::Resize(WindowSize { rows, columns }))
    }

    fn tell(&self, input: &Input) -> Result<(), Error> {
        self.session.now(|talk| talk.tell(input)).map_err(Error::stream)
    }
}

/// A command's standard input. Dropping it closes the input; on a terminal, it types ^D.
///
/// Writing blocks while the program does not read, and fails with
/// [`BrokenPipe`](io::ErrorKind::BrokenPipe) once it has closed its input or exited.
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
        // First see whether the program has closed its input or exited.
        self.session.take_arrived();
        self.session.wait(|talk| talk.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ExecStdin {
    fn drop(&mut self) {
        // It fails for a command that has exited.
        let _ = self.session.now(Conversation::end_input);
    }
}

/// A command's standard output. It reaches end of file after the command has exited.
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
        // It fails for a stream that is closed already.
        let _ = self.session.now(|talk| talk.close(Output::Stdout));
    }
}

/// A command's standard error. It reaches end of file after the command has exited.
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
        // It fails for a stream that is closed already.
        let _ = self.session.now(|talk| talk.close(Output::Stderr));
    }
}
