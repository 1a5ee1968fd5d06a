//! Running other programs and reporting their failures.

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

/// Runs a command with our standard streams.
pub(crate) fn run(command: &mut Command) -> Result<(), Error> {
    let status = command.status().map_err(|source| start(command, source))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Command { command: line(command), status: status.to_string() })
}

/// Runs a command and returns its standard output. On failure, prints its last lines.
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

/// The last lines of a program's output, which usually give the reason.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines.split_at(lines.len().saturating_sub(TAIL_LINES)).1.join("\n")
}

/// The error of a program that cannot be started.
pub(crate) fn start(command: &Command, source: io::Error) -> Error {
    Error::Start { program: command.get_program().to_string_lossy().into_owned(), source }
}

/// A command that needs root: runs through sudo for other users.
pub(crate) fn as_root(program: &str) -> Command {
    // SAFETY: geteuid has no precondition and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// Has the kernel kill the child when the thread that starts it exits.
pub(crate) fn die_with_us(command: &mut Command) {
    let ask = || {
        // SAFETY: PR_SET_PDEATHSIG takes a signal's number.
        let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: `ask` only makes a system call.
    unsafe { command.pre_exec(ask) };
}

/// Gives the child default signal dispositions. nohup and background jobs of shells ignore some
/// signals, and children inherit that.
pub(crate) fn reset_signals(command: &mut Command) {
    let reset = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
            // SAFETY: SIG_DFL is no function of ours, so no handler runs.
            if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: `reset` only makes system calls.
    unsafe { command.pre_exec(reset) };
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn reset_signals_undoes_an_inherited_ignore() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "kill -INT $$; echo alive"]).stdout(Stdio::null());
        let ignore = || {
            // SAFETY: SIG_IGN is no function of ours, so no handler runs.
            unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
            Ok(())
        };
        // SAFETY: `ignore` only makes a system call. It runs before what is added later.
        unsafe { shell.pre_exec(ignore) };
        assert!(shell.status().unwrap().success());
        reset_signals(&mut shell);
        assert_eq!(shell.status().unwrap().signal(), Some(libc::SIGINT));
    }
}
