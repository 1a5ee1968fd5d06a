//! A process in a machine, as `run` and `exec` have it: its options, its streams, its status.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use supermachine::{ExecBuilder, ExecChild, ExecOutcome, ExecSignaler, Vm};
use supermachine_formats::wire::Operation;

use crate::error::Error;
use crate::terminal::{self, Raw};
use crate::{format, report};

/// The status when the command could not be run for a reason of ours.
pub(crate) const FAILED: u8 = 125;
const TIMED_OUT: u8 = 124;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
const BY_SIGNAL: u8 = 128;
/// The guest's error number for a file that does not exist.
const ENOENT: u16 = 2;
const SIGKILL: i32 = 9;
/// What is passed on at once.
const PIECE: usize = 64 << 10;

/// What the statuses of `run` and `exec` mean.
pub(crate) const STATUSES: &str = "\
Exit status: that of the command, or
  124    it took longer than --timeout
  125    supermachine itself failed
  126    the program is there but cannot be executed
  127    there is no such program
  128+N  signal N ended it";

/// How a process in a machine is to be.
#[derive(Debug, clap::Args)]
pub(crate) struct ProcessArgs {
    /// Pass standard input on to the command
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal; with -i it is this one, as `-it`
    #[arg(short, long)]
    tty: bool,
    /// Set a variable for the command; without =VALUE, as it is here
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<(String, String)>,
    /// The directory to run it in
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The user to run it as, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Kill the command after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
}

/// Runs a command and returns its exit status.
pub(crate) fn run(vm: &Vm, argv: &[OsString], args: &ProcessArgs) -> Result<u8, Error> {
    let command = describe(vm, argv, args);
    let done = if args.interactive || args.tty {
        interact(command, args)
    } else {
        let done = command.output_to(&mut io::stdout().lock(), &mut io::stderr().lock());
        done.map_err(Error::from)
    };
    let program = argv.first().map(|word| word.to_string_lossy()).unwrap_or_default();
    let outcome = done.map_err(|error| explain(error, &program))?;
    if let Some(limit) = args.timeout.filter(|_| outcome.timed_out) {
        report::note(&format!("command killed after {}, its time-out", format::time(limit)));
    }
    Ok(status(&outcome))
}

/// The status for an error of `run` or `exec`.
pub(crate) fn status_of(error: &Error) -> u8 {
    match error {
        Error::NoSuchProgram { .. } => NOT_FOUND,
        Error::NotExecutable { .. } => NOT_EXECUTABLE,
        _ => FAILED,
    }
}

fn describe<'a>(vm: &'a Vm, argv: &[OsString], args: &ProcessArgs) -> ExecBuilder<'a> {
    let mut command = vm.exec_builder().argv(argv);
    if args.tty {
        command = command.tty(true);
        if let Some((rows, columns)) = terminal::size() {
            command = command.winsize(rows, columns);
        }
        // What is shown is shown by the terminal here.
        if let Some(kind) = std::env::var_os("TERM") {
            command = command.env("TERM", kind);
        }
    }
    for (name, value) in &args.env {
        command = command.env(name, value);
    }
    if let Some(dir) = &args.workdir {
        command = command.cwd(dir);
    }
    if let Some(user) = &args.user {
        command = command.user(user);
    }
    if let Some(timeout) = args.timeout {
        command = command.timeout(timeout);
    }
    command
}

/// Runs a command whose input, or terminal, is here.
fn interact(command: ExecBuilder<'_>, args: &ProcessArgs) -> Result<ExecOutcome, Error> {
    let raw = if args.interactive && args.tty { Some(Raw::enter()?) } else { None };
    let mut child = command.spawn()?;
    if args.tty {
        terminal::watch(child.signaler(), raw.as_ref())?;
    }
    let stdin = child.stdin();
    // Without -i the command's input is empty, but a terminal's input has no end.
    let kept = match (args.interactive, stdin) {
        (true, Some(stdin)) => {
            // It ends with this process: nothing wakes who waits for a key.
            drop(spawn("input", move || pass_input(stdin))?);
            None
        }
        (false, stdin) => stdin.filter(|_| args.tty),
        (true, None) => None,
    };
    pass_output(&mut child)?;
    let outcome = child.wait()?;
    drop(kept);
    Ok(outcome)
}

fn pass_input(mut to: impl Write) {
    let mut piece = vec![0; PIECE];
    loop {
        match io::stdin().read(&mut piece) {
            Ok(count @ 1..) if to.write_all(piece.get(..count).unwrap_or_default()).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Its end, or that of whoever reads it.
            _ => return,
        }
    }
}

/// Passes on what a command writes, until it has ended.
fn pass_output(child: &mut ExecChild) -> Result<(), Error> {
    let (stdout, stderr, signaler) = (child.stdout(), child.stderr(), child.signaler());
    let errors = spawn("errors", {
        let signaler = child.signaler();
        move || pass(stderr, io::stderr(), "standard error", &signaler)
    })?;
    let passed = pass(stdout, io::stdout(), "standard output", &signaler);
    let errors = errors.join().unwrap_or(Ok(()));
    Ok(passed.and(errors)?)
}

/// Passes a stream on. A command whose output cannot be written any more is killed.
fn pass(
    from: Option<impl Read>,
    mut to: impl Write,
    stream: &'static str,
    command: &ExecSignaler,
) -> Result<(), supermachine::Error> {
    let Some(mut from) = from else { return Ok(()) };
    let mut piece = vec![0; PIECE];
    loop {
        let count = match from.read(&mut piece) {
            Ok(count @ 1..) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // Why it ended is told by whoever waits for the command.
            Ok(_) | Err(_) => return Ok(()),
        };
        let bytes = piece.get(..count).unwrap_or_default();
        if let Err(source) = to.write_all(bytes).and_then(|()| to.flush()) {
            // One that has ended already needs no end.
            let _ = command.signal(SIGKILL);
            return Err(supermachine::Error::Output { stream, source });
        }
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map_err(|source| Error::Thread { source })
}

fn status(outcome: &ExecOutcome) -> u8 {
    let of_signal = |signal| u8::try_from(signal).map_or(u8::MAX, |n| BY_SIGNAL.saturating_add(n));
    match (outcome.timed_out, outcome.status.code(), outcome.status.signal()) {
        (true, _, _) => TIMED_OUT,
        (false, Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (false, None, Some(signal)) => of_signal(signal),
        (false, None, None) => FAILED,
    }
}

/// The agent's words about a command that could not be started, as a shell would put them.
fn explain(error: Error, program: &str) -> Error {
    let Error::Machine(supermachine::Error::Agent { failure }) = error else { return error };
    let source = io::Error::from_raw_os_error(failure.errno.into());
    let program = program.to_owned();
    match (failure.operation, failure.errno) {
        (Operation::Execve, ENOENT) => Error::NoSuchProgram { program },
        (Operation::Execve, _) => Error::NotExecutable { program, source },
        (operation, _) => Error::NotPrepared { operation, subject: failure.subject, source },
    }
}

/// Reads a number of seconds, which may have a fraction.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(number) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("not a time above zero".to_owned()),
    }
}

/// Reads `NAME=VALUE`, or `NAME` for the value that the variable has here.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => {
            let value = std::env::var(text).map_err(|_| "is not set here; give a value")?;
            (text, value)
        }
    };
    if name.is_empty() { Err("has no name".into()) } else { Ok((name.to_owned(), value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_positive_numbers() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for text in ["", "x", "0", "-1", "inf", "nan", "1e300", "5s"] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn variables_have_a_name_and_any_value() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(variable("A=b=c"), pair("A", "b=c"));
        assert_eq!(variable("A="), pair("A", ""));
        assert!(variable("=b").is_err());
        assert!(variable("SURELY_NOT_SET_ANYWHERE").is_err());
    }
}
