//! The terminal of a command in a machine.
//!
//! While [`Raw`] lives, all keys go to the machine, ^C included. The terminal's settings are restored
//! when it is dropped, and when a signal kills this process.

use std::io;
use std::thread;

use rustix::termios::{self, OptionalActions, Termios};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;
use supermachine::ExecSignaler;

use crate::error::{Error, HostError, UsageError};

/// Signals that kill this process, and restore the terminal first.
const FATAL: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// A terminal in raw mode.
#[derive(Debug)]
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Switches the terminal of standard input to raw mode.
    pub(crate) fn enter() -> Result<Self, Error> {
        let failed = |error: rustix::io::Errno| HostError::Terminal { source: error.into() };
        let stdin = io::stdin();
        if !termios::isatty(&stdin) {
            return Err(UsageError::NotATerminal.into());
        }
        let before = termios::tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Drain, &raw).map_err(failed)?;
        Ok(Self { before })
    }

    fn restore(&self) {
        // A terminal that has gone needs no settings.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Rows and columns of the terminal behind one of the standard streams.
pub(crate) fn size() -> Option<(u16, u16)> {
    let found = termios::tcgetwinsize(io::stdout())
        .or_else(|_| termios::tcgetwinsize(io::stdin()))
        .or_else(|_| termios::tcgetwinsize(io::stderr()));
    let size = found.ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Passes changes of the terminal's size to a command while this process lives, and restores the
/// terminal before a signal kills it.
pub(crate) fn watch(command: ExecSignaler, raw: Option<&Raw>) -> Result<(), Error> {
    let failed = |source| HostError::Terminal { source };
    let before = raw.map(|raw| Raw { before: raw.before.clone() });
    let fatal = if before.is_some() { &FATAL[..] } else { &[] };
    let wanted = [&[SIGWINCH], fatal].concat();
    let mut signals = Signals::new(wanted).map_err(failed)?;
    // The size may have changed between the command's start and the line above.
    resize(&command);
    let follow = move || {
        for signal in signals.forever() {
            if signal == SIGWINCH {
                resize(&command);
                continue;
            }
            before.iter().for_each(Raw::restore);
            // Returns only for signals that are ignored by default.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    };
    thread::Builder::new().name("terminal".into()).spawn(follow).map_err(failed)?;
    Ok(())
}

fn resize(command: &ExecSignaler) {
    if let Some((rows, columns)) = size() {
        // The command may have exited.
        let _ = command.resize(rows, columns);
    }
}
