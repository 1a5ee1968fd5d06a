//! Copies the standard streams of a command.

use std::io::{self, Read, Write};
use std::thread::{self, JoinHandle};

use supermachine::{ExecChild, ExecSignaler};

use crate::error::{Error, HostError};

const SIGKILL: i32 = 9;
/// How many bytes are copied at once.
const PIECE: usize = 64 << 10;

/// Copies our standard input to a command.
pub(super) fn copy_input(mut to: impl Write) {
    let mut piece = vec![0; PIECE];
    loop {
        match io::stdin().read(&mut piece) {
            Ok(count @ 1..) if to.write_all(piece.split_at(count).0).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // End of input, or the reader has gone.
            _ => return,
        }
    }
}

/// Copies the output of a command until it exits.
pub(crate) fn copy_output(
    child: &mut ExecChild,
    to_stdout: impl Write,
    to_stderr: impl Write + Send + 'static,
) -> Result<(), Error> {
    let (stdout, stderr, signaler) = (child.stdout(), child.stderr(), child.signaler());
    let errors = spawn("errors", {
        let signaler = child.signaler();
        move || copy(stderr, to_stderr, "standard error", &signaler)
    })?;
    let copied = copy(stdout, to_stdout, "standard output", &signaler);
    let errors = errors.join().unwrap_or(Ok(()));
    Ok(copied.and(errors)?)
}

/// Copies a stream. Kills the command when its output cannot be written.
fn copy(
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
            // `wait` returns the reason.
            Ok(_) | Err(_) => return Ok(()),
        };
        let bytes = piece.split_at(count).0;
        if let Err(source) = to.write_all(bytes).and_then(|()| to.flush()) {
            // The command may have exited.
            let _ = command.signal(SIGKILL);
            return Err(supermachine::Error::Transfer {
                source: supermachine::error::TransferError::Output { stream, source },
            });
        }
    }
}

/// Starts a thread.
pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map_err(|source| HostError::Thread { source }.into())
}
