//! Starting a program with its pipes, and how it ended.

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::c_char;
use core::ptr::null;

use supermachine_formats::wire::{Exit, ExitStatus, Failure};

use crate::container::Launch;
use crate::environment::candidates;
use crate::failure::{OrFailure, failure};
use crate::sys::fd::{self, Fd};
use crate::sys::process::{Credentials, Ended, Plan, Spawner, Step};
use crate::sys::{Errno, clock};

/// A running program and our ends of its pipes.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    /// By the monotonic clock.
    pub(crate) started: u64,
    pub(crate) stdin: Option<Fd>,
    pub(crate) stdout: Fd,
    pub(crate) stderr: Fd,
}

/// Starts a program. Without `stdin` its standard input is `null`.
pub(crate) fn start(
    spawner: &mut Spawner,
    null_device: &Fd,
    launch: &Launch,
    stdin: bool,
) -> Result<Child, Failure> {
    let program = launch.argv.first().map_or(b"".as_slice(), Vec::as_slice);
    if program.is_empty() {
        return Err(failure("execve", program, Errno::EINVAL));
    }
    let credentials = &launch.account.credentials;
    let input = if stdin { Some(pipe(credentials)?) } else { None };
    let (stdout, child_stdout) = pipe(credentials)?;
    let (stderr, child_stderr) = pipe(credentials)?;
    let (stdin, child_stdin) = match input {
        Some((reader, writer)) => (Some(writer), Some(reader)),
        None => (None, None),
    };
    let programs = candidates(program, launch.path.as_deref());
    let argv = c_strings(&launch.argv)?;
    let env = c_strings(&launch.env)?;
    let cwd = match launch.cwd.as_slice() {
        b"" | b"/" => None,
        cwd => Some(CString::new(cwd).map_err(|_| failure("chdir", cwd, Errno::EINVAL))?),
    };
    let plan = Plan {
        programs: &pointers(&programs),
        argv: &pointers(&argv),
        env: &pointers(&env),
        cwd: cwd.as_deref(),
        stdio: [child_stdin.as_ref().unwrap_or(null_device), &child_stdout, &child_stderr],
        credentials,
    };
    let started = clock::monotonic();
    match spawner.spawn(&plan) {
        Ok(pid) => Ok(Child { pid, started, stdin, stdout, stderr }),
        Err((step, errno)) => Err(step_failure(step, program, launch, errno)),
    }
}

/// How an ended program is told to the host.
pub(crate) fn exit(ended: &Ended, started: u64, now: u64, timed_out: bool) -> Exit {
    // The low seven bits are the signal, the next eight the code.
    let [low, code, ..] = ended.status.to_le_bytes();
    let status = match low & 0x7F {
        0 => ExitStatus::Code(code),
        signal => ExitStatus::Signal(signal),
    };
    let duration_us = now.saturating_sub(started) / 1000;
    Exit { status, timed_out, duration_us, peak_rss_kib: ended.peak_rss_kib }
}

/// A pipe that its user may open by name too: images link logs to /dev/stderr.
fn pipe(credentials: &Credentials) -> Result<(Fd, Fd), Failure> {
    let (reader, writer) = fd::pipe().or_failure("pipe2", "")?;
    if credentials.uid != 0 {
        fd::change_owner(&writer, credentials.uid, credentials.gid).or_failure("fchown", "pipe")?;
    }
    Ok((reader, writer))
}

fn c_strings(strings: &[Vec<u8>]) -> Result<Vec<CString>, Failure> {
    let convert = |string: &Vec<u8>| CString::new(string.as_slice());
    let converted: Result<Vec<CString>, _> = strings.iter().map(convert).collect();
    converted.map_err(|_| failure("execve", "argument with a zero byte", Errno::EINVAL))
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([null()]).collect()
}

fn step_failure(step: Step, program: &[u8], launch: &Launch, errno: Errno) -> Failure {
    match step {
        Step::Clone => failure("clone", program, errno),
        Step::Session => failure("setsid", program, errno),
        Step::Limits => failure("prlimit", program, errno),
        Step::Groups => failure("setgroups", program, errno),
        Step::Group => failure("setgid", program, errno),
        Step::User => failure("setuid", program, errno),
        Step::Directory => failure("chdir", &launch.cwd, errno),
        Step::Descriptors => failure("dup3", program, errno),
        Step::Signals => failure("sigprocmask", program, errno),
        Step::Execute => failure("execve", program, errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_a_code_or_a_signal() {
        let ended = |status| Ended { pid: 1, status, peak_rss_kib: 7 };
        let code = exit(&ended(0x2A00), 1_000, 5_000, false);
        assert_eq!(code.status, ExitStatus::Code(42));
        assert_eq!((code.duration_us, code.peak_rss_kib), (4, 7));
        assert_eq!(exit(&ended(0x89), 0, 0, true).status, ExitStatus::Signal(9));
    }
}
