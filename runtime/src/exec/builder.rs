//! Describing a command, and running it.

use std::ffi::OsStr;
use std::io::Write;
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use supermachine_formats::wire::{Command, Request, StagedFile, WindowSize};

use super::child::ExecChild;
use super::conversation::{Conversation, PreparedCommand, ReplyDeadline};
use super::outcome::ExecOutcome;
use super::session::Session;
use super::ulimit::Ulimit;
use crate::Error;
use crate::agent::beginning;
use crate::error::{InvalidInput, TransferError};
use crate::files::{checked_mode, checked_path};
use crate::machine::{Blocking, MachineHandle, StreamError};

/// The most input that is sent with the request.
const ALONG: usize = 64 << 10;
/// The default size of a terminal.
const DEFAULT_SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };
/// The default limit on each collected stream.
const DEFAULT_MAX_OUTPUT: usize = 64 << 20;

/// A command for a machine, in the manner of [`std::process::Command`].
///
/// Environment, working directory and user are those of the image unless they are set here.
/// `M` says whether its calls block or are awaited.
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
#[derive(Debug)]
#[must_use = "a command does nothing until it is run or spawned"]
pub struct ExecBuilder<'a, M = Blocking> {
    machine: &'a Arc<dyn MachineHandle>,
    draft: Draft,
    mode: PhantomData<M>,
}

impl<M> Clone for ExecBuilder<'_, M> {
    fn clone(&self) -> Self {
        Self { machine: self.machine, draft: self.draft.clone(), mode: PhantomData }
    }
}

/// The options so far.
#[derive(Debug, Clone)]
struct Draft {
    command: Command,
    /// Files, with unchecked paths and modes.
    files: Vec<(PathBuf, u32, Vec<u8>)>,
    stdin: Option<Vec<u8>>,
    /// Whether a spawned command has no input.
    has_no_stdin: bool,
    is_terminal: bool,
    size: WindowSize,
    max_output: usize,
}

impl<'a, M> ExecBuilder<'a, M> {
    pub(crate) fn new(machine: &'a Arc<dyn MachineHandle>) -> Self {
        let draft = Draft {
            command: Command::default(),
            files: Vec::new(),
            stdin: None,
            has_no_stdin: false,
            is_terminal: false,
            size: DEFAULT_SIZE,
            max_output: DEFAULT_MAX_OUTPUT,
        };
        Self { machine, draft, mode: PhantomData }
    }

    /// Sets the program and its arguments. The guest looks the program up in the command's `PATH`.
    pub fn argv<I>(mut self, argv: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.draft.command.argv = words(argv);
        self
    }

    /// Adds a command that runs after the previous one has returned 0, in the same environment,
    /// with the same user, directory, input and timeout, and without a shell. The output is that of
    /// all commands, the outcome that of the last one that ran.
    pub fn chain<I>(mut self, argv: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.draft.command.chain.push(words(argv));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let mut pair = name.as_ref().as_bytes().to_vec();
        pair.push(b'=');
        pair.extend_from_slice(value.as_ref().as_bytes());
        self.draft.command.env.push(pair);
        self
    }

    /// Starts from an empty environment instead of the image's.
    pub fn env_clear(mut self) -> Self {
        self.draft.command.env_clear = true;
        self.draft.command.env.clear();
        self
    }

    /// Sets the working directory in the guest.
    pub fn cwd(mut self, cwd: impl AsRef<OsStr>) -> Self {
        self.draft.command.cwd = Some(cwd.as_ref().as_bytes().to_vec());
        self
    }

    /// Sets the user, as `user[:group]`, by name or number.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.draft.command.user = Some(user.into());
        self
    }

    /// Limits a resource of each of the command's processes. Resources without a limit here have that of
    /// the snapshot's container.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let image = supermachine::Image::from_snapshot("names/web")?;
    /// # let vm = image.start(&supermachine::VmConfig::new())?;
    /// let limits = vm.exec_builder().argv(["sh", "-c", "ulimit -n"]).ulimit("nofile=64".parse()?);
    /// assert_eq!(limits.output()?.stdout, b"64\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn ulimit(mut self, limit: Ulimit) -> Self {
        self.draft.command.ulimits.push(limit.to_wire());
        self
    }

    /// Sets the command's standard input. With [`spawn`](Self::spawn), later writes follow it.
    /// Input beyond the command's window is sent while the caller waits for the command or reads
    /// one of its streams.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.draft.stdin = Some(bytes.into());
        self
    }

    /// Gives a [spawned](Self::spawn) command no input: it reads end of file at once, and
    /// [`ExecChild::stdin`] returns `None`.
    pub fn stdin_null(mut self) -> Self {
        self.draft.has_no_stdin = true;
        self
    }

    /// Gives the command a terminal for its input and output: all its output is standard output.
    /// `TERM` defaults to `xterm`.
    pub fn tty(mut self, is_terminal: bool) -> Self {
        self.draft.is_terminal = is_terminal;
        self
    }

    /// Sets the terminal's size, in characters. The default is 24 by 80.
    pub fn winsize(mut self, rows: u16, columns: u16) -> Self {
        self.draft.size = WindowSize { rows, columns };
        self
    }

    /// Writes a small file before the command starts, in the same round trip. It belongs to the
    /// command's user. The command and its files are limited to a mebibyte; for larger files use
    /// [`Vm::write_file`](crate::Vm::write_file).
    pub fn stage_file(
        mut self,
        path: impl AsRef<Path>,
        mode: u32,
        content: impl Into<Vec<u8>>,
    ) -> Self {
        self.draft.files.push((path.as_ref().to_owned(), mode, content.into()));
        self
    }

    /// Limits each stream that [`output`](Self::output) and
    /// [`wait_with_output`](ExecChild::wait_with_output) collect. The default is 64 MiB. A command
    /// that writes more is killed.
    pub fn max_output(mut self, bytes: usize) -> Self {
        self.draft.max_output = bytes;
        self
    }

    /// Kills the command's process group after this long. Its output until then is kept.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        // A timeout below a millisecond is rounded up, as 0 means none.
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.draft.command.timeout_ms = ms.max(1);
        self
    }

    /// The machine, and the command to send to it.
    pub(crate) fn prepare(
        self,
        is_interactive: bool,
    ) -> Result<(&'a Arc<dyn MachineHandle>, PreparedCommand), Error> {
        Ok((self.machine, self.draft.prepare(is_interactive)?))
    }
}

impl ExecBuilder<'_> {
    /// Runs the command until it exits, and collects its output.
    ///
    /// A non-zero exit status is not an error: see [`ExecOutcome::status`].
    ///
    /// # Errors
    /// [`Error::Agent`] when the program cannot be started: it does not exist, may not be executed,
    /// or the user or directory does not exist. [`Error::Guest`] when the guest exits.
    /// [`Error::Transfer`] when it writes more than [`max_output`](Self::max_output).
    pub fn output(self) -> Result<ExecOutcome, Error> {
        let (session, limit) = self.open(false)?;
        session.collect(true, true, limit)
    }

    /// Runs the command until it exits, and passes on its output as it arrives.
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
    /// Those of [`output`](Self::output), and [`Error::Transfer`] when a writer fails: then the
    /// command is killed.
    pub fn output_to(
        self,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<ExecOutcome, Error> {
        let (session, _) = self.open(false)?;
        session.drain(true, true, &mut |taken| {
            pass_on(stdout, &taken.stdout, "standard output")?;
            pass_on(stderr, &taken.stderr, "standard error")
        })
    }

    /// Starts the command, and returns its streams.
    ///
    /// ```no_run
    /// use std::io::{Read, Write};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let image = supermachine::Image::from_snapshot("names/web")?;
    /// # let vm = image.start(&supermachine::VmConfig::new())?;
    /// let mut child = vm.exec_builder().argv(["cat"]).spawn()?;
    /// let mut stdin = child.stdin().ok_or("taken")?;
    /// stdin.write_all(b"over and back")?;
    /// drop(stdin);
    /// let mut text = String::new();
    /// child.stdout().ok_or("taken")?.read_to_string(&mut text)?;
    /// assert!(child.wait()?.success());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`output`](Self::output), when the program cannot be started.
    pub fn spawn(self) -> Result<ExecChild, Error> {
        let has_input = !self.draft.has_no_stdin;
        let (session, limit) = self.open(has_input)?;
        let session = Arc::new(session);
        let mut child = ExecChild::new(Arc::clone(&session), limit);
        if !has_input {
            drop(child.stdin());
        }
        session.wait(|talk| talk.started()).map_err(StreamError::into_error)?;
        Ok(child)
    }

    /// Sends the command. Returns its session, and the limit on each collected stream.
    fn open(self, is_interactive: bool) -> Result<(Session, usize), Error> {
        let (machine, command) = self.prepare(is_interactive)?;
        let limit = command.max_output;
        Ok((Session::open(machine, command)?, limit))
    }
}

impl Draft {
    fn prepare(mut self, is_interactive: bool) -> Result<PreparedCommand, Error> {
        if self.command.argv.is_empty() || self.command.chain.iter().any(Vec::is_empty) {
            return Err(Error::Invalid { source: InvalidInput::EmptyCommand });
        }
        for (path, mode, content) in std::mem::take(&mut self.files) {
            let (path, mode) = (checked_path(&path)?, checked_mode(mode)?);
            self.command.files.push(StagedFile { path, mode, content });
        }
        self.command.terminal = self.is_terminal.then_some(self.size);
        self.command.stdin = is_interactive || self.stdin.is_some();
        let deadline = match self.command.timeout_ms {
            0 => None,
            ms => ReplyDeadline::with(Duration::from_millis(ms)),
        };
        let (has_input, max_output) = (self.command.stdin, self.max_output);
        // As much input as fits is sent with the request. A terminal's input does not end.
        let mut input = self.stdin.unwrap_or_default();
        let rest = input.split_off(input.len().min(ALONG));
        let is_whole = has_input && rest.is_empty() && !is_interactive && !self.is_terminal;
        let bytes = beginning(&Request::Exec(self.command), &input, is_whole)?;
        let mut talk = Conversation::new(deadline);
        if has_input && !is_whole {
            talk = talk.with_input(input.len(), rest, is_interactive);
        }
        Ok(PreparedCommand { bytes, talk, max_output })
    }
}

/// Writes and flushes bytes. An empty slice is a no-op.
pub(crate) fn pass_on(to: &mut dyn Write, bytes: &[u8], stream: &'static str) -> Result<(), Error> {
    if bytes.is_empty() {
        return Ok(());
    }
    to.write_all(bytes)
        .and_then(|()| to.flush())
        .map_err(|source| Error::Transfer { source: TransferError::Output { stream, source } })
}

fn words<I>(argv: I) -> Vec<Vec<u8>>
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    argv.into_iter().map(|argument| argument.as_ref().as_bytes().to_vec()).collect()
}
