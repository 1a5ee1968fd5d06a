//! A process in a machine for `run` and `exec`: its options, streams, signals and exit status.

mod options;
pub(crate) mod signals;
mod start;
mod status;
mod streams;

use std::ffi::OsString;
use std::io;

use supermachine::Vm;

use crate::error::Error;
use crate::terminal::{self, Raw};
use crate::{format, report};

pub(crate) use options::{ProcessArgs, seconds};
pub(crate) use start::start;
pub(crate) use status::{FAILED, STATUSES, of_error as status_of, of_exit, of_outcome};
pub(crate) use streams::copy_output;

/// Runs a command and returns its exit status.
pub(crate) fn run(vm: &Vm, argv: &[OsString], args: &ProcessArgs) -> Result<u8, Error> {
    let raw = if args.interactive && args.tty { Some(Raw::enter()?) } else { None };
    let mut child = start(vm, argv, args)?;
    if args.tty {
        terminal::watch(child.signaler(), raw.as_ref())?;
    }
    let forwarded = match &raw {
        // In raw mode the terminal sends no signals.
        Some(_) => None,
        None => {
            let command = child.signaler();
            // The command may have exited.
            Some(signals::forward(move |signal| drop(command.signal(signal)))?)
        }
    };
    let stdin = child.stdin();
    // Without -i the command's input is empty, but a terminal's input must stay open.
    let kept = match (args.interactive, stdin) {
        (true, Some(stdin)) => {
            // The thread lives until this process exits, since nothing interrupts its read.
            drop(streams::spawn("input", move || streams::copy_input(stdin))?);
            None
        }
        (false, stdin) => stdin.filter(|_| args.tty),
        (true, None) => None,
    };
    copy_output(&mut child, io::stdout(), io::stderr())?;
    let outcome = child.wait()?;
    drop((kept, raw));
    if let Some(limit) = args.timeout.filter(|_| outcome.timed_out) {
        report::note(&format!("command killed after {}, its timeout", format::time(limit)));
    }
    if let Some(forwarded) = forwarded {
        forwarded.die_of_interrupt(outcome.status);
    }
    Ok(of_outcome(&outcome))
}
