//! Running commands in a machine.

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use supermachine_formats::wire::{self, Command, Exit, Reply, Request};

use crate::agent::Replies;
use crate::{Error, Vm};

/// How much longer than a command's own time-out its last words may take.
const GRACE: Duration = Duration::from_secs(10);

/// A command for a machine, in the manner of [`std::process::Command`].
///
/// Environment, working directory and user are those of the image unless they are set here.
///
/// ```no_run
/// # fn main() -> Result<(), supermachine::Error> {
/// # let image = supermachine::Image::from_snapshot("names/web")?;
/// # let vm = image.start(&supermachine::VmConfig::new())?;
/// let outcome = vm.exec_builder().argv(["sh", "-c", "echo $GREETING"]).env("GREETING", "hi").output()?;
/// assert!(outcome.success());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a command does nothing until `output` or `output_to` is called"]
pub struct ExecBuilder<'a> {
    vm: &'a Vm,
    command: Command,
}

impl<'a> ExecBuilder<'a> {
    pub(crate) fn new(vm: &'a Vm) -> Self {
        Self { vm, command: Command::default() }
    }

    /// The program and its arguments. The program is looked up in the command's `PATH`.
    pub fn argv<I>(mut self, argv: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.command.argv =
            argv.into_iter().map(|argument| argument.as_ref().as_bytes().to_vec()).collect();
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let mut pair = name.as_ref().as_bytes().to_vec();
        pair.push(b'=');
        pair.extend_from_slice(value.as_ref().as_bytes());
        self.command.env.push(pair);
        self
    }

    /// Starts from an empty environment instead of the image's.
    pub fn env_clear(mut self) -> Self {
        self.command.env_clear = true;
        self.command.env.clear();
        self
    }

    /// The working directory in the guest.
    pub fn cwd(mut self, cwd: impl AsRef<OsStr>) -> Self {
        self.command.cwd = Some(cwd.as_ref().as_bytes().to_vec());
        self
    }

    /// The user, as `user[:group]`, by name or number.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.command.user = Some(user.into());
        self
    }

    /// Kills the command's process group after this long. What it wrote until then is kept.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        // A time-out below a millisecond still is one: 0 would mean none.
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.command.timeout_ms = ms.max(1);
        self
    }

    /// Runs the command to its end and collects what it writes.
    ///
    /// A command that fails is not an error: see [`ExecOutcome::status`].
    ///
    /// # Errors
    /// [`Error::Agent`] when the program cannot be started: it does not exist, may not be
    /// executed, or the user or directory does not exist. [`Error::Guest`] when the guest ends.
    pub fn output(self) -> Result<ExecOutcome, Error> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let exit = self.run(|stream, bytes| {
            match stream {
                Stream::Stdout => stdout.extend_from_slice(bytes),
                Stream::Stderr => stderr.extend_from_slice(bytes),
            }
            Ok(())
        })?;
        Ok(ExecOutcome::new(exit, stdout, stderr))
    }

    /// Runs the command to its end and passes on what it writes as it comes.
    ///
    /// The writers are flushed after each piece. The outcome holds no output.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), supermachine::Error> {
    /// # let image = supermachine::Image::from_snapshot("names/web")?;
    /// # let vm = image.start(&supermachine::VmConfig::new())?;
    /// let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    /// let outcome = vm.exec_builder().argv(["ls", "-R", "/"]).output_to(&mut stdout, &mut stderr)?;
    /// println!("{}", outcome.status);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`output`](Self::output), and [`Error::Output`] when a writer fails: then the
    /// command is killed.
    pub fn output_to(
        self,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<ExecOutcome, Error> {
        let exit = self.run(|stream, bytes| {
            let (written, stream) = match stream {
                Stream::Stdout => (pass_on(stdout, bytes), "standard output"),
                Stream::Stderr => (pass_on(stderr, bytes), "standard error"),
            };
            written.map_err(|source| Error::Output { stream, source })
        })?;
        Ok(ExecOutcome::new(exit, Vec::new(), Vec::new()))
    }

    /// Runs the command and hands each piece of output to `take`. An error of `take` ends the
    /// stream, and with it the command.
    fn run(self, take: impl FnMut(Stream, &[u8]) -> Result<(), Error>) -> Result<Exit, Error> {
        if self.command.argv.is_empty() {
            return Err(Error::EmptyCommand);
        }
        let timeout_ms = self.command.timeout_ms;
        let mut replies = Replies::open(self.vm.machine(), &Request::Exec(self.command))?;
        if timeout_ms > 0 {
            replies.set_limit(Some(Duration::from_millis(timeout_ms).saturating_add(GRACE)))?;
        }
        follow(|| replies.next(), take)
    }
}

/// Hands output to `take` until the command has ended.
fn follow(
    mut next: impl FnMut() -> Result<Reply, Error>,
    mut take: impl FnMut(Stream, &[u8]) -> Result<(), Error>,
) -> Result<Exit, Error> {
    loop {
        match next()? {
            Reply::Started { .. } => {}
            Reply::Stdout(bytes) => take(Stream::Stdout, &bytes)?,
            Reply::Stderr(bytes) => take(Stream::Stderr, &bytes)?,
            Reply::Exited(exit) => return Ok(exit),
            Reply::Failed(failure) => return Err(Error::Agent { failure }),
            _ => return Err(Error::UnexpectedReply { request: "exec" }),
        }
    }
}

fn pass_on(to: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// Which of a command's streams a piece of output is from.
#[derive(Debug, Clone, Copy)]
enum Stream {
    Stdout,
    Stderr,
}

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
    fn new(exit: Exit, stdout: Vec<u8>, stderr: Vec<u8>) -> Self {
        Self {
            status: ExitStatus(exit.status),
            stdout,
            stderr,
            duration: Duration::from_micros(exit.duration_us),
            timed_out: exit.timed_out,
            peak_rss_kib: exit.peak_rss_kib,
        }
    }

    /// Whether the command returned 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }
}

/// An exit code or a signal, in the manner of [`std::process::ExitStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus(wire::ExitStatus);

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
