//! Running other programs: started, waited for, and an error when they fail.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use crate::error::Error;

/// How much of a failed program's output is shown.
const TAIL_LINES: usize = 30;

/// The command as a person would type it.
fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs a command, its output going where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<(), Error> {
    let status = command.status().map_err(|source| start(command, source))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Command { command: line(command), status: status.to_string() })
}

/// Runs a command and returns its standard output; what it said last is shown when it fails.
pub(crate) fn output(command: &mut Command) -> Result<String, Error> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().map_err(|source| start(command, source))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    for text in [stdout, stderr] {
        eprintln!("{}", tail(&String::from_utf8_lossy(&text)));
    }
    Err(Error::Command { command: line(command), status: status.to_string() })
}

/// The last lines of what a program said, where its reason usually stands.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines.split_at(lines.len().saturating_sub(TAIL_LINES)).1.join("\n")
}

/// The error of a program that could not be started.
pub(crate) fn start(command: &Command, source: io::Error) -> Error {
    Error::Start { program: command.get_program().to_string_lossy().into_owned(), source }
}

/// A command that needs root: through sudo where we are not root.
pub(crate) fn as_root(program: &str) -> Command {
    // SAFETY: geteuid has no precondition and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// Has the kernel end the child when the thread that starts it ends.
pub(crate) fn die_with_us(command: &mut Command) {
    let ask = || {
        // SAFETY: PR_SET_PDEATHSIG takes a signal's number.
        let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: `ask` only makes a system call.
    unsafe { command.pre_exec(ask) };
}
