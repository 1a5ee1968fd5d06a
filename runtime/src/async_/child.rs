//! A running command, awaited.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use supermachine_formats::wire::{Input, Output, WindowSize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::session::{Session, Waiter};
use crate::agent::signal_number;
use crate::exec::{CollectedOutput, Conversation, SIGKILL};
use crate::{Error, ExecOutcome};

/// A running command, in the manner of `tokio::process::Child`.
///
/// Dropping it kills the command and its process group, and fails its streams. It does not keep the
/// machine running: when the machine stops, all calls fail with [`Error::Guest`] or
/// [`Error::Stopped`].
///
/// Unread output stays in the guest, and a command whose pipe is full blocks. So read both streams,
/// or use [`wait_with_output`](Self::wait_with_output). Different tasks may read them,
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
        Self {
            stdin: Some(ExecStdin(Waiter::new(&session))),
            stdout: Some(ExecStdout(Waiter::new(&session))),
            stderr: Some(ExecStderr(Waiter::new(&session))),
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
    /// holds no output. A dropped future loses nothing: call it again.
    ///
    /// A command whose pipe is full and unread never exits.
    ///
    /// # Errors
    /// Those of [`output`](crate::ExecBuilder::output).
    pub async fn wait(&mut self) -> Result<ExecOutcome, Error> {
        drop(self.stdin.take());
        ExecOutcome::of(self.waiter().wait(|talk| talk.exit()).await)
    }

    /// The outcome, or `None` while the command runs.
    ///
    /// # Errors
    /// Those of [`wait`](Self::wait).
    pub fn try_wait(&mut self) -> Result<Option<ExecOutcome>, Error> {
        self.session.take_arrived();
        self.session.now(|talk| talk.exit()).map(ExecOutcome::of).transpose()
    }

    /// Closes the input if it was not taken, waits for the command to exit, and collects the output
    /// streams that were not taken.
    ///
    /// # Errors
    /// Those of [`output`](crate::ExecBuilder::output).
    pub async fn wait_with_output(mut self) -> Result<ExecOutcome, Error> {
        drop(self.stdin.take());
        let (has_stdout, has_stderr) = (self.stdout.is_some(), self.stderr.is_some());
        let (mut waiter, mut kept) = (self.waiter(), CollectedOutput::new(self.max_output));
        loop {
            let taken = waiter.wait(|talk| talk.take(has_stdout, has_stderr)).await;
            kept.add(&taken)?;
            if let Some(end) = taken.end {
                return Ok(kept.into_outcome(ExecOutcome::of(end)?));
            }
        }
    }

    /// Kills the command and its process group, without waiting for its exit. A no-op once it has
    /// exited.
    ///
    /// # Errors
    /// None at present: awaited calls report a failed stream.
    pub fn kill(&self) -> Result<(), Error> {
        self.signal(SIGKILL)
    }

    /// Sends a signal to the command's process group. A no-op once it has exited.
    ///
    /// # Errors
    /// The number is not a signal.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        self.signaler().signal(signal)
    }

    /// A handle that sends signals, also from another task.
    #[must_use]
    pub fn signaler(&self) -> ExecSignaler {
        ExecSignaler(Arc::clone(&self.session))
    }

    /// Sets the terminal's size, in characters. A no-op without a terminal.
    ///
    /// # Errors
    /// None at present: awaited calls report a failed stream.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        self.signaler().resize(rows, columns)
    }

    pub(super) fn waiter(&self) -> Waiter {
        Waiter::new(&self.session)
    }
}

impl Drop for ExecChild {
    fn drop(&mut self) {
        self.session.abandon();
    }
}

/// Sends signals to a command. It may outlive the [`ExecChild`], and is then a no-op.
#[derive(Debug, Clone)]
pub struct ExecSignaler(Arc<Session>);

impl ExecSignaler {
    /// Sends a signal to the command's process group. A no-op once it has exited.
    ///
    /// # Errors
    /// The number is not a signal.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        let input = Input::Signal(signal_number(signal)?);
        self.0.now(|talk| talk.tell(&input));
        Ok(())
    }

    /// Sets the terminal's size, in characters. A no-op without a terminal.
    ///
    /// # Errors
    /// None at present: awaited calls report a failed stream.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        self.0.now(|talk| talk.tell(&Input::Resize(WindowSize { rows, columns })));
        Ok(())
    }
}

/// A command's standard input. Dropping it, or shutting it down, closes the input; on a terminal,
/// it types ^D.
///
/// Writing waits while the program does not read, and fails with
/// [`BrokenPipe`](io::ErrorKind::BrokenPipe) once it has closed its input or exited. No flush is
/// needed.
#[derive(Debug)]
pub struct ExecStdin(Waiter);

impl AsyncWrite for ExecStdin {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let waiter = &mut self.get_mut().0;
        // First see whether the program has closed its input or exited.
        waiter.session().take_arrived();
        // A write in progress keeps its window.
        waiter.poll(cx, |talk| if talk.has_unsent() { None } else { talk.write(bytes) })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.poll(cx, |talk| (!talk.has_unsent()).then_some(Ok(())))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.session().now(Conversation::end_input);
        self.poll_flush(cx)
    }
}

impl Drop for ExecStdin {
    fn drop(&mut self) {
        self.0.session().now(Conversation::end_input);
    }
}

/// A command's standard output. It reaches end of file after the command has exited.
#[derive(Debug)]
pub struct ExecStdout(Waiter);

impl AsyncRead for ExecStdout {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        poll_read(&mut self.get_mut().0, Output::Stdout, cx, buffer)
    }
}

impl Drop for ExecStdout {
    fn drop(&mut self) {
        self.0.session().now(|talk| talk.close(Output::Stdout));
    }
}

/// A command's standard error. It reaches end of file after the command has exited.
#[derive(Debug)]
pub struct ExecStderr(Waiter);

impl AsyncRead for ExecStderr {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        poll_read(&mut self.get_mut().0, Output::Stderr, cx, buffer)
    }
}

impl Drop for ExecStderr {
    fn drop(&mut self) {
        self.0.session().now(|talk| talk.close(Output::Stderr));
    }
}

fn poll_read(
    waiter: &mut Waiter,
    output: Output,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let space = buffer.initialize_unfilled();
    let count = ready!(waiter.poll(cx, |talk| talk.read(output, space)))?;
    buffer.advance(count);
    Poll::Ready(Ok(()))
}
