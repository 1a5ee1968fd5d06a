//! `supermachine run`: a snapshot is restored, a command run in it, and the machine ended.

use std::ffi::OsString;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::time::Duration;

use supermachine::{ExecOutcome, Image, Timings, VmConfig};
use supermachine_baker::oci::ImageSource;
use supermachine_baker::{BakeError, Store};

use super::pull::{self, FetchArgs};
use crate::error::Error;
use crate::{Globals, format, report, store};

/// The status when the command could not be run for a reason of ours.
pub(crate) const FAILED: u8 = 125;
const TIMED_OUT: u8 = 124;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
const BY_SIGNAL: u8 = 128;
/// The guest's error number for a file that does not exist.
const ENOENT: u16 = 2;

const EXAMPLES: &str = "\
Examples:
  supermachine run redis -- redis-cli ping
  supermachine run -e LANG=C -w /tmp -u nobody busybox -- sh -c 'id; pwd'
  supermachine run --timeout 5 --timings python -- python3 -c 'print(6 * 7)'

Each run has a fresh machine, and nothing of it is kept. The command's standard input is empty.

Exit status: that of the command, or
  124    it took longer than --timeout
  125    supermachine itself failed
  126    the program is there but cannot be executed
  127    there is no such program
  128+N  signal N ended it";

/// Run a command in a machine restored from a snapshot
///
/// The machine goes on from the moment at which its image was ready. Output comes as it is written,
/// and the command's exit status is this one's.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(override_usage = "supermachine run [OPTIONS] <NAME|IMAGE> -- <COMMAND> [ARGUMENT]...")]
pub(crate) struct Args {
    /// A snapshot's name, or an image, which is pulled if there is no snapshot of it
    #[arg(value_name = "NAME|IMAGE")]
    target: String,
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
    /// Tell how long each step took, on standard error
    #[arg(long)]
    timings: bool,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    argv: Vec<OsString>,
    #[command(flatten)]
    fetch: FetchArgs,
}

/// Runs a command and returns its exit status.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let Some(program) = args.argv.first() else {
        return Err(Error::NoCommand { name: args.target.clone() });
    };
    let mut timings = Timings::start();
    let (dir, name) = find(args, globals)?;
    timings.step("find");
    let image = Image::from_store(dir, &name)?;
    timings.step("open");
    let vm = image.start(&VmConfig::new())?;
    timings.step("start");
    let mut command = vm.exec_builder().argv(&args.argv);
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
    let outcome = command.output_to(&mut io::stdout().lock(), &mut io::stderr().lock());
    timings.step("command");
    if args.timings {
        tell(&timings, vm.timings());
    }
    // The process ends now, and the machine with it: an orderly end would only take longer.
    mem::forget(vm);
    let outcome = outcome.map_err(|error| explain(error, &program.to_string_lossy()))?;
    if let Some(limit) = args.timeout.filter(|_| outcome.timed_out) {
        report::note(&format!("command killed after {}, its time-out", format::time(limit)));
    }
    Ok(status(&outcome))
}

/// The status for an error of `run`.
pub(crate) fn status_of(error: &Error) -> u8 {
    match error {
        Error::NoSuchProgram { .. } => NOT_FOUND,
        Error::NotExecutable { .. } => NOT_EXECUTABLE,
        _ => FAILED,
    }
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
fn explain(error: supermachine::Error, program: &str) -> Error {
    let supermachine::Error::Agent { failure } = error else { return error.into() };
    let source = io::Error::from_raw_os_error(failure.errno.into());
    let program = program.to_owned();
    match (failure.operation.as_str(), failure.errno) {
        ("execve", ENOENT) => Error::NoSuchProgram { program },
        ("execve", _) => Error::NotExecutable { program, source },
        (operation, _) => {
            Error::NotPrepared { operation: operation.to_owned(), subject: failure.subject, source }
        }
    }
}

/// The store and the name of the snapshot that is meant; an image that has none is pulled.
fn find(args: &Args, globals: &Globals) -> Result<(PathBuf, String), Error> {
    let dir = store::dir(globals.store.as_deref())?;
    if store::has(&dir, &args.target)? {
        return Ok((dir, args.target.clone()));
    }
    let source: ImageSource = args.target.parse().map_err(BakeError::from)?;
    let reference = source.to_string();
    if let Some(store) = store::open_existing(Some(&dir))?
        && let Some(name) = named(&store, &reference)?
    {
        return Ok((dir, name));
    }
    if !globals.quiet {
        report::note(&format!("no snapshot of {reference} yet, pulling it"));
    }
    match pull(args, &dir, &reference, globals.quiet) {
        Ok(name) => Ok((dir, name)),
        Err(error @ Error::NameTaken { .. }) => Err(error),
        Err(source) => {
            Err(Error::NotPulled { wanted: reference, store: dir, source: Box::new(source) })
        }
    }
}

fn pull(args: &Args, dir: &Path, reference: &str, quiet: bool) -> Result<String, Error> {
    pull::check_host()?;
    let store = store::open(Some(dir))?;
    let name = free_name(&store, &args.target, reference)?;
    Ok(pull::bake_default(&args.target, &name, &args.fetch, &store, quiet)?.name)
}

/// The name of a snapshot of this image.
fn named(store: &Store, reference: &str) -> Result<Option<String>, Error> {
    for name in store.names()? {
        // What cannot be read is not what is looked for; `ls` tells of it.
        if image_of(store, &name).is_some_and(|image| image == reference) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn image_of(store: &Store, name: &str) -> Option<String> {
    let summary = store.summary(store.digest(name).ok()?).ok()?;
    Some(summary.snapshot.workload?.reference)
}

/// A name for an image's snapshot that no other image has: `redis`, else `redis-7.2`.
fn free_name(store: &Store, target: &str, reference: &str) -> Result<String, Error> {
    let last = target.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let short = last.split(['@', ':']).next().unwrap_or_default();
    let long = last.replace(['@', ':'], "-");
    for name in [short, &long] {
        if matches!(store.digest(name), Err(BakeError::NoSuchName { .. })) {
            return Ok(name.to_owned());
        }
    }
    let image = image_of(store, short).unwrap_or_else(|| "unknown".to_owned());
    let (name, wanted) = (short.to_owned(), reference.to_owned());
    Err(Error::NameTaken { name, image, wanted })
}

fn tell(ours: &Timings, machine: &Timings) {
    let row = |name: &str, time: Duration| {
        report::note(&format!("{name:24} {:>10}", format!("{:.3} ms", time.as_secs_f64() * 1e3)));
    };
    for (name, time) in ours.steps() {
        row(name, *time);
        if *name == "start" {
            machine.steps().iter().for_each(|(step, time)| row(&format!("  {step}"), *time));
        }
    }
    row("all", ours.total());
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
