//! Commands, awaited.

use tokio::io::AsyncWrite;

use super::child::ExecChild;
use super::session::Session;
use super::stream::write_all;
use crate::error::TransferError;
use crate::machine::{Awaited, StreamError};
use crate::{Error, ExecOutcome};

/// A command for a machine, with the methods of the [blocking builder](crate::ExecBuilder).
///
/// ```no_run
/// # async fn example() -> Result<(), supermachine::Error> {
/// # let image = supermachine::Image::from_store("snapshots", "python")?;
/// # let vm = supermachine::async_::Vm::start(&image, &supermachine::VmConfig::new()).await?;
/// let outcome = vm.exec_builder().argv(["sort"]).stdin("b\na\n").output().await?;
/// assert_eq!(outcome.stdout, b"a\nb\n");
/// # Ok(())
/// # }
/// ```
pub type ExecBuilder<'a> = crate::ExecBuilder<'a, Awaited>;

impl crate::ExecBuilder<'_, Awaited> {
    /// Runs the command until it exits, and collects its output. When the future is dropped, the
    /// command is killed.
    ///
    /// A non-zero exit status is not an error: see [`ExecOutcome::status`].
    ///
    /// # Errors
    /// [`Error::Agent`] when the program cannot be started: it does not exist, may not be executed,
    /// or the user or directory does not exist. [`Error::Guest`] when the guest exits.
    /// [`Error::Transfer`] when it writes more than [`max_output`](crate::ExecBuilder::max_output).
    pub async fn output(self) -> Result<ExecOutcome, Error> {
        self.open(false)?.wait_with_output().await
    }

    /// Runs the command until it exits, and passes on its output as it arrives. When the future is
    /// dropped, the command is killed.
    ///
    /// The writers are flushed after each piece. The outcome holds no output.
    ///
    /// # Errors
    /// Those of `output`, and [`Error::Transfer`] when a writer fails: then the command is killed.
    pub async fn output_to(
        self,
        stdout: &mut (impl AsyncWrite + Unpin),
        stderr: &mut (impl AsyncWrite + Unpin),
    ) -> Result<ExecOutcome, Error> {
        let child = self.open(false)?;
        let mut waiter = child.waiter();
        let error = |stream| {
            move |source| Error::Transfer { source: TransferError::Output { stream, source } }
        };
        loop {
            let taken = waiter.wait(|talk| talk.take(true, true)).await;
            write_all(stdout, &taken.stdout).await.map_err(error("standard output"))?;
            write_all(stderr, &taken.stderr).await.map_err(error("standard error"))?;
            if let Some(end) = taken.end {
                return ExecOutcome::of(end);
            }
        }
    }

    /// Starts the command, and returns its streams. When the future is dropped earlier, the command
    /// is killed.
    ///
    /// ```no_run
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # let image = supermachine::Image::from_store("snapshots", "python")?;
    /// # let vm = supermachine::async_::Vm::start(&image, &supermachine::VmConfig::new()).await?;
    /// let mut child = vm.exec_builder().argv(["cat"]).spawn().await?;
    /// let mut stdin = child.stdin().ok_or("taken")?;
    /// stdin.write_all(b"over and back").await?;
    /// drop(stdin);
    /// let mut text = String::new();
    /// child.stdout().ok_or("taken")?.read_to_string(&mut text).await?;
    /// assert!(child.wait().await?.success());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for `output`, when the program cannot be started.
    pub async fn spawn(self) -> Result<ExecChild, Error> {
        let child = self.open(true)?;
        child.waiter().wait(|talk| talk.started()).await.map_err(StreamError::into_error)?;
        Ok(child)
    }

    fn open(self, is_interactive: bool) -> Result<ExecChild, Error> {
        let (machine, command) = self.prepare(is_interactive)?;
        let limit = command.max_output;
        Ok(ExecChild::new(Session::open(machine, command)?, limit))
    }
}
