//! What a command is to be, and running it to its end.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use supermachine_formats::wire::{Command, Request, StagedFile, WindowSize};

use super::child::ExecChild;
use super::conversation::{Conversation, Patience};
use super::outcome::ExecOutcome;
use super::session::Session;
use crate::agent::{End, beginning};
use crate::files::{checked_mode, checked_path};
use crate::{Error, Vm};

/// The most input that goes along with the request.
const ALONG: usize = 64 << 10;
/// The size of a terminal that is not told.
const DEFAULT_SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };
/// What is kept of each stream unless it is told.
const DEFAULT_MAX_OUTPUT: usize = 64 << 20;

/// A command for a machine, in the manner of [`std::process::Command`].
///
/// Environment, working directory and user are those of the image unless they are set here.
/// `V` is the machine's handle, and says whether the command is waited for or awaited.
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
pub struct ExecBuilder<'a, V = Vm> {
    vm: &'a V,
    draft: Draft,
}

impl<V> Clone for ExecBuilder<'_, V> {
    fn clone(&self) -> Self {
        Self { vm: self.vm, draft: self.draft.clone() }
    }
}

/// What was asked for so far.
#[derive(Debug, Clone)]
struct Draft {
    command: Command,
    /// Files with modes that were not looked at yet.
    files: Vec<(PathBuf, u32, Vec<u8>)>,
    stdin: Option<Vec<u8>>,
    /// Whether a spawned command has an input to write to.
    has_no_stdin: bool,
    is_terminal: bool,
    size: WindowSize,
    max_output: usize,
}

/// A command that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What the stream begins with.
    pub(crate) bytes: Vec<u8>,
    /// How it goes on.
    pub(crate) talk: Conversation,
    /// What is kept of each stream.
    pub(crate) max_output: usize,
}

impl<'a, V> ExecBuilder<'a, V> {
    pub(crate) fn new(vm: &'a V) -> Self {
        let draft = Draft {
            command: Command::default(),
            files: Vec::new(),
            stdin: None,
            has_no_stdin: false,
            is_terminal: false,
            size: DEFAULT_SIZE,
            max_output: DEFAULT_MAX_OUTPUT,
        };
        Self { vm, draft }
    }

    /// The program and its arguments. The program is looked up in the command's `PATH`.
    pub fn argv<I>(mut self, argv: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.draft.command.argv = words(argv);
        self
    }

    /// Adds a command that runs once the one before it has returned 0, with the same environment,
    /// user, directory, input and time-out. No shell is involved. The output is that of all, the
    /// outcome that of the last one that ran.
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

    /// The working directory in the guest.
    pub fn cwd(mut self, cwd: impl AsRef<OsStr>) -> Self {
        self.draft.command.cwd = Some(cwd.as_ref().as_bytes().to_vec());
        self
    }

    /// The user, as `user[:group]`, by name or number.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.draft.command.user = Some(user.into());
        self
    }

    /// What the command reads from its standard input. For [`spawn`](Self::spawn) it comes before
    /// what is written later. What the command has no room for at first goes while somebody waits
    /// for it or for one of its streams.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.draft.stdin = Some(bytes.into());
        self
    }

    /// Gives a [spawned](Self::spawn) command no input: it reads the end of its input at once, and
    /// [`ExecChild::stdin`] returns `None`.
    pub fn stdin_null(mut self) -> Self {
        self.draft.has_no_stdin = true;
        self
    }

    /// Gives the command a terminal of its own for input and output: all that it writes comes as
    /// standard output. `TERM` is `xterm` unless it is set.
    pub fn tty(mut self, is_terminal: bool) -> Self {
        self.draft.is_terminal = is_terminal;
        self
    }

    /// The terminal's size, in characters; 24 by 80 otherwise.
    pub fn winsize(mut self, rows: u16, columns: u16) -> Self {
        self.draft.size = WindowSize { rows, columns };
        self
    }

    /// Writes a small file before the command starts, in the same round trip. It belongs to the
    /// command's user. All of them, with the command, must fit into a mebibyte; for larger ones
    /// there is [`Vm::write_file`].
    pub fn stage_file(
        mut self,
        path: impl AsRef<Path>,
        mode: u32,
        content: impl Into<Vec<u8>>,
    ) -> Self {
        self.draft.files.push((path.as_ref().to_owned(), mode, content.into()));
        self
    }

    /// How many bytes of each stream [`output`](Self::output) and
    /// [`wait_with_output`](ExecChild::wait_with_output) keep, 64 MiB otherwise. A command that
    /// writes more is killed.
    pub fn max_output(mut self, bytes: usize) -> Self {
        self.draft.max_output = bytes;
        self
    }

    /// Kills the command's process group after this long. What it wrote until then is kept.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        // A time-out below a millisecond still is one: 0 would mean none.
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.draft.command.timeout_ms = ms.max(1);
        self
    }

    /// The machine, and the command as it is sent to it.
    pub(crate) fn plan(self, is_interactive: bool) -> Result<(&'a V, Plan), Error> {
        Ok((self.vm, self.draft.plan(is_interactive)?))
    }
}

impl ExecBuilder<'_> {
    /// Runs the command to its end and collects what it writes.
    ///
    /// A command that fails is not an error: see [`ExecOutcome::status`].
    ///
    /// # Errors
    /// [`Error::Agent`] when the program cannot be started: it does not exist, may not be
    /// executed, or the user or directory does not exist. [`Error::Guest`] when the guest ends.
    /// [`Error::OutputTooLarge`] when it writes more than [`max_output`](Self::max_output).
    pub fn output(self) -> Result<ExecOutcome, Error> {
        let (session, limit) = self.open(false)?;
        session.collect(true, true, limit)
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
        let (session, _) = self.open(false)?;
        session.drain(true, true, &mut |taken| {
            pass_on(stdout, &taken.stdout, "standard output")?;
            pass_on(stderr, &taken.stderr, "standard error")
        })
    }

    /// Starts the command, and gives its streams.
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
        session.wait(|talk| talk.started()).map_err(End::into_error)?;
        Ok(child)
    }

    /// Sends the command. Gives its stream, and what is kept of each output.
    fn open(self, is_interactive: bool) -> Result<(Session, usize), Error> {
        let (vm, plan) = self.plan(is_interactive)?;
        let limit = plan.max_output;
        Ok((Session::open(vm, plan)?, limit))
    }
}

impl Draft {
    fn plan(mut self, is_interactive: bool) -> Result<Plan, Error> {
        if self.command.argv.is_empty() || self.command.chain.iter().any(Vec::is_empty) {
            return Err(Error::EmptyCommand);
        }
        for (path, mode, content) in std::mem::take(&mut self.files) {
            let (path, mode) = (checked_path(&path)?, checked_mode(mode)?);
            self.command.files.push(StagedFile { path, mode, content });
        }
        self.command.terminal = self.is_terminal.then_some(self.size);
        self.command.stdin = is_interactive || self.stdin.is_some();
        let patience = match self.command.timeout_ms {
            0 => None,
            ms => Patience::with(Duration::from_millis(ms)),
        };
        let (has_input, max_output) = (self.command.stdin, self.max_output);
        // What fits goes along with the request; a terminal has no end of its own.
        let mut input = self.stdin.unwrap_or_default();
        let rest = input.split_off(input.len().min(ALONG));
        let is_whole = has_input && rest.is_empty() && !is_interactive && !self.is_terminal;
        let bytes = beginning(&Request::Exec(self.command), &input, is_whole)?;
        let mut talk = Conversation::new(patience);
        if has_input && !is_whole {
            talk = talk.with_input(input.len(), rest, is_interactive);
        }
        Ok(Plan { bytes, talk, max_output })
    }
}

/// Passes bytes on at once; no bytes are not told.
pub(crate) fn pass_on(to: &mut dyn Write, bytes: &[u8], stream: &'static str) -> Result<(), Error> {
    if bytes.is_empty() {
        return Ok(());
    }
    to.write_all(bytes).and_then(|()| to.flush()).map_err(|source| Error::Output { stream, source })
}

fn words<I>(argv: I) -> Vec<Vec<u8>>
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    argv.into_iter().map(|argument| argument.as_ref().as_bytes().to_vec()).collect()
}
