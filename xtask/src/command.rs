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

/// Has the child find every signal as a program finds it that a terminal's shell starts. nohup, and
/// shells that start jobs in the background, ignore some, and programs inherit that.
pub(crate) fn reset_signals(command: &mut Command) {
    let reset = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
            // SAFETY: the default is no function, so nothing of ours runs.
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
    fn child_of_a_process_that_ignores_interrupts_is_interrupted() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "kill -INT $$; echo alive"]).stdout(Stdio::null());
        let ignore = || {
            // SAFETY: ignoring is no function, so nothing of ours runs.
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
