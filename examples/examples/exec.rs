//! Restores a snapshot, runs one command, and exits with its status.
//!
//! ```text
//! exec STORE NAME ARGV…
//! ```
//!
//! The gate checks the number of its dependencies and its size: it represents programs that only
//! restore and run commands.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use supermachine::{Error, ExecOutcome, Image, VmConfig};

/// The exit status of this program's own failures, as for `docker run` and `chroot`.
const OWN_FAILURE: u8 = 125;
/// Added to the number of a signal, as shells do.
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
    // Printed first, so that the output does not wait for the machine to stop.
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
    // Standard error may be closed.
    let _ = writeln!(io::stderr(), "exec: {reason}");
    ExitCode::from(OWN_FAILURE)
}
