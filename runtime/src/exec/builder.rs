//! What a command is to be, and running it to its end.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use supermachine_formats::wire::{Command, Exit, Request, StagedFile, WindowSize};

use super::child::{ExecChild, collect};
use super::outcome::ExecOutcome;
use super::session::Session;
use crate::files::{checked_mode, checked_path};
use crate::{Error, Vm};

/// How much longer than a command's own time-out its last words may take.
const GRACE: Duration = Duration::from_secs(10);
/// The size of a terminal that is not told.
const DEFAULT_SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };
/// What is kept of each stream unless it is told.
const DEFAULT_MAX_OUTPUT: usize = 64 << 20;

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
#[must_use = "a command does nothing until `output`, `output_to` or `spawn` is called"]
pub struct ExecBuilder<'a> {
    vm: &'a Vm,
    command: Command,
    /// Files with modes that were not looked at yet.
    files: Vec<(PathBuf, u32, Vec<u8>)>,
    stdin: Option<Vec<u8>>,
    is_terminal: bool,
    size: WindowSize,
    max_output: usize,
}

impl<'a> ExecBuilder<'a> {
    pub(crate) fn new(vm: &'a Vm) -> Self {
        Self {
            vm,
            command: Command::default(),
            files: Vec::new(),
            stdin: None,
            is_terminal: false,
            size: DEFAULT_SIZE,
            max_output: DEFAULT_MAX_OUTPUT,
        }
    }

    /// The program and its arguments. The program is looked up in the command's `PATH`.
    pub fn argv<I>(mut self, argv: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.command.argv = words(argv);
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
        self.command.chain.push(words(argv));
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

    /// What the command reads from its standard input. For [`spawn`](Self::spawn) it comes before
    /// what is written later.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Gives the command a terminal of its own for input and output: all that it writes comes as
    /// standard output. `TERM` is `xterm` unless it is set.
    pub fn tty(mut self, is_terminal: bool) -> Self {
        self.is_terminal = is_terminal;
        self
    }

    /// The terminal's size, in characters; 24 by 80 otherwise.
    pub fn winsize(mut self, rows: u16, columns: u16) -> Self {
        self.size = WindowSize { rows, columns };
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
        self.files.push((path.as_ref().to_owned(), mode, content.into()));
        self
    }

    /// How many bytes of each stream [`output`](Self::output) and
    /// [`wait_with_output`](ExecChild::wait_with_output) keep, 64 MiB otherwise. A command that
    /// writes more is killed.
    pub fn max_output(mut self, bytes: usize) -> Self {
        self.max_output = bytes;
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
    /// [`Error::OutputTooLarge`] when it writes more than [`max_output`](Self::max_output).
    pub fn output(self) -> Result<ExecOutcome, Error> {
        let limit = self.max_output;
        let (session, input) = self.open(false)?;
        collect(&session, &input, limit)
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
        let (session, input) = self.open(false)?;
        let exit: Exit = session.run(&input, &mut |taken| {
            pass_on(stdout, &taken.stdout, "standard output")?;
            pass_on(stderr, &taken.stderr, "standard error")
        })?;
        Ok(ExecOutcome::new(exit, Vec::new(), Vec::new()))
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
        let limit = self.max_output;
        let (session, input) = self.open(true)?;
        let session = Arc::new(session);
        let child = ExecChild::new(Arc::clone(&session), limit);
        session.started()?;
        session.send_all(&input)?;
        Ok(child)
    }

    /// Opens the command's stream. Gives the input that did not go along with it.
    fn open(mut self, is_interactive: bool) -> Result<(Session, Vec<u8>), Error> {
        if self.command.argv.is_empty() || self.command.chain.iter().any(Vec::is_empty) {
            return Err(Error::EmptyCommand);
        }
        for (path, mode, content) in std::mem::take(&mut self.files) {
            let (path, mode) = (checked_path(&path)?, checked_mode(mode)?);
            self.command.files.push(StagedFile { path, mode, content });
        }
        self.command.terminal = self.is_terminal.then_some(self.size);
        self.command.stdin = is_interactive || self.stdin.is_some();
        let limit = match self.command.timeout_ms {
            0 => None,
            ms => Some(Duration::from_millis(ms).saturating_add(GRACE)),
        };
        let (is_terminal, input) = (self.is_terminal, self.stdin.unwrap_or_default());
        let has_input = self.command.stdin;
        let request = Request::Exec(self.command);
        if !has_input {
            return Ok((Session::open(self.vm, &request, limit, None)?, Vec::new()));
        }
        // What fits goes along with the request; a terminal has no end of its own.
        let along = input.get(..super::session::ALONG).unwrap_or(&input);
        let is_whole = along.len() == input.len() && !is_interactive && !is_terminal;
        let session = Session::open(self.vm, &request, limit, Some((along, is_whole)))?;
        let rest = input.get(along.len()..).unwrap_or_default().to_vec();
        Ok((session, rest))
    }
}

fn pass_on(to: &mut dyn Write, bytes: &[u8], stream: &'static str) -> Result<(), Error> {
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
