//! Restores a snapshot, runs one command in it, and ends as the command did.
//!
//! ```text
//! exec STORE NAME ARGV…
//! ```
//!
//! It stands for every program that only restores and runs commands: its dependencies and
//! its size have a budget, which the gate checks.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use supermachine::{Error, ExecOutcome, Image, VmConfig};

/// The status of this program's own failures, as `docker run` and `chroot` have it.
const OWN_FAILURE: u8 = 125;
/// What a shell adds to the number of the signal that ended a command.
const SIGNALLED: i32 = 128;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let (Some(store), Some(name)) = (words.next(), words.next()) else {
        return fail("usage: exec STORE NAME ARGV…");
    };
    let argv: Vec<OsString> = words.collect();
    run(&store, &name.to_string_lossy(), &argv).unwrap_or_else(|error| fail(&chain(&error)))
}

fn run(store: &OsString, name: &str, argv: &[OsString]) -> Result<ExitCode, Error> {
    let vm = Image::from_store(store, name)?.start(&VmConfig::new())?;
    let outcome = vm.exec(argv)?;
    // Shown first: whoever waits for the output need not wait for the machine's end.
    let status = show(&outcome).unwrap_or_else(|error| fail(&error.to_string()));
    vm.stop()?;
    Ok(status)
}

fn show(outcome: &ExecOutcome) -> io::Result<ExitCode> {
    io::stdout().write_all(&outcome.stdout)?;
    io::stderr().write_all(&outcome.stderr)?;
    let signal = outcome.status.signal().map(|signal| SIGNALLED + signal);
    let code = outcome.status.code().or(signal).and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(OWN_FAILURE)))
}

/// An error and its sources on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

fn fail(reason: &str) -> ExitCode {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "exec: {reason}");
    ExitCode::from(OWN_FAILURE)
}
