//! The terminal that a command of a machine is shown on.
//!
//! While [`Raw`] lives, what is typed goes to the machine as it is, ^C too. The terminal gets its
//! own ways back when it is dropped, and when a signal ends this process.

use std::io;
use std::thread;

use rustix::termios::{self, OptionalActions, Termios};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;
use supermachine::ExecSignaler;

use crate::error::Error;

/// What ends this process, and finds a terminal to be put in order before.
const ENDING: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// A terminal in raw mode.
#[derive(Debug)]
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Puts the terminal of standard input into raw mode.
    pub(crate) fn enter() -> Result<Self, Error> {
        let failed = |error: rustix::io::Errno| Error::Terminal { source: error.into() };
        let stdin = io::stdin();
        if !termios::isatty(&stdin) {
            return Err(Error::NotATerminal);
        }
        let before = termios::tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Drain, &raw).map_err(failed)?;
        Ok(Self { before })
    }

    fn leave(&self) {
        // A terminal that is gone needs no order.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Rows and columns of the terminal that one of the standard streams is, if one is.
pub(crate) fn size() -> Option<(u16, u16)> {
    let found = termios::tcgetwinsize(io::stdout())
        .or_else(|_| termios::tcgetwinsize(io::stdin()))
        .or_else(|_| termios::tcgetwinsize(io::stderr()));
    let size = found.ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Tells a command of each change of the terminal's size, for as long as this process lives, and
/// puts the terminal in order before a signal ends it.
pub(crate) fn watch(command: ExecSignaler, raw: Option<&Raw>) -> Result<(), Error> {
    let failed = |source| Error::Terminal { source };
    let before = raw.map(|raw| Raw { before: raw.before.clone() });
    let ending = if before.is_some() { &ENDING[..] } else { &[] };
    let wanted = [&[SIGWINCH], ending].concat();
    let mut signals = Signals::new(wanted).map_err(failed)?;
    // A change between the command's start and the line above.
    resize(&command);
    let follow = move || {
        for signal in signals.forever() {
            if signal == SIGWINCH {
                resize(&command);
                continue;
            }
            before.iter().for_each(Raw::leave);
            // It only returns if the signal's own way is to do nothing.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    };
    thread::Builder::new().name("terminal".into()).spawn(follow).map_err(failed)?;
    Ok(())
}

fn resize(command: &ExecSignaler) {
    if let Some((rows, columns)) = size() {
        // A command that has ended needs no size.
        let _ = command.resize(rows, columns);
    }
}
