//! Opens a shell in a fresh machine on the current terminal.
//!
//! ```text
//! shell STORE NAME [PROGRAM…]
//! ```
//!
//! Keys go to the machine unchanged, including ^C, and its output appears at once. The window's size
//! is kept up to date. `exit` closes the shell and this program.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::thread;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::SIGWINCH;
use signal_hook::iterator::Signals;
use supermachine::{Image, Vm, VmConfig};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1);
    let (Some(store), Some(name)) = (words.next(), words.next()) else {
        return Err("usage: shell STORE NAME [PROGRAM…]".into());
    };
    let mut argv: Vec<OsString> = words.collect();
    if argv.is_empty() {
        argv.push("/bin/sh".into());
    }
    let vm = Image::from_store(store, &name.to_string_lossy())?.start(&VmConfig::new())?;
    let status = shell(&vm, &argv)?;
    vm.stop()?;
    Ok(ExitCode::from(status))
}

fn shell(vm: &Vm, argv: &[OsString]) -> Result<u8, Box<dyn Error>> {
    let (rows, columns) = size()?;
    let command = vm.exec_builder().argv(argv).tty(true).winsize(rows, columns);
    let mut child = command.spawn()?;
    let _raw = Raw::enter()?;
    if let Some(stdin) = child.stdin() {
        // A blocked read cannot be woken, so this thread lives until the program exits.
        thread::spawn(move || pass(io::stdin(), stdin));
    }
    let (signaler, mut signals) = (child.signaler(), Signals::new([SIGWINCH])?);
    let resized = signals.handle();
    let watch = thread::spawn(move || {
        for _ in signals.forever() {
            if let Ok((rows, columns)) = size() {
                // The shell may have exited.
                let _ = signaler.resize(rows, columns);
            }
        }
    });
    if let Some(stdout) = child.stdout() {
        pass(stdout, io::stdout())?;
    }
    let outcome = child.wait()?;
    resized.close();
    // The thread cannot fail.
    let _ = watch.join();
    Ok(outcome.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

/// Copies bytes as soon as they arrive.
fn pass(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut piece = [0; 16 << 10];
    loop {
        let count = from.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(piece.get(..count).unwrap_or_default())?;
        to.flush()?;
    }
}

/// The rows and columns of this terminal.
fn size() -> io::Result<(u16, u16)> {
    let size = tcgetwinsize(io::stdin())?;
    Ok((size.ws_row, size.ws_col))
}

/// The terminal in raw mode; dropping this restores its previous mode.
struct Raw(Termios);

impl Raw {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}
