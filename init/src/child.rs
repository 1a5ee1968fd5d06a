//! Starts a program with its pipes or terminal, and reports its exit.

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::c_char;
use core::ptr::null;

use supermachine_formats::wire::{Exit, ExitStatus, Failure, WindowSize};

use crate::cgroup::Group;
use crate::container::Launch;
use crate::environment::candidates;
use crate::failure::{OrFailure, failure};
use crate::sys::fd::{self, Fd};
use crate::sys::process::{Credentials, ExitedChild, SpawnSpec, Spawner, Step};
use crate::sys::{Errno, clock, terminal};

/// A running program and the agent's ends of its pipes.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    /// By the monotonic clock.
    pub(crate) started: u64,
    pub(crate) ends: Ends,
}

/// The agent's ends of a program's standard streams.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) stdin: Option<Fd>,
    pub(crate) stdout: Fd,
    /// `None` if standard error is the terminal, too.
    pub(crate) stderr: Option<Fd>,
}

/// A program's ends of its standard streams.
#[derive(Debug)]
pub(crate) enum Stdio {
    /// A pipe for each stream. Without one, standard input is the null device.
    Pipes { stdin: Option<Fd>, stdout: Fd, stderr: Fd },
    /// One terminal for all three.
    Terminal(Fd),
}

/// Makes pipes for a program with these credentials.
pub(crate) fn pipes(credentials: &Credentials, stdin: bool) -> Result<(Stdio, Ends), Failure> {
    let input = if stdin { Some(pipe(credentials)?) } else { None };
    let (stdout, child_stdout) = pipe(credentials)?;
    let (stderr, child_stderr) = pipe(credentials)?;
    let (stdin, child_stdin) = match input {
        Some((reader, writer)) => (Some(writer), Some(reader)),
        None => (None, None),
    };
    let stdio = Stdio::Pipes { stdin: child_stdin, stdout: child_stdout, stderr: child_stderr };
    Ok((stdio, Ends { stdin, stdout, stderr: Some(stderr) }))
}

/// Makes one pipe for both outputs of a program with these credentials. Returns the agent's end.
pub(crate) fn output(credentials: &Credentials) -> Result<(Stdio, Fd), Failure> {
    let (reader, stdout) = pipe(credentials)?;
    let stderr = fd::duplicate(&stdout).or_failure("fcntl", "pipe")?;
    Ok((Stdio::Pipes { stdin: None, stdout, stderr }, reader))
}

/// Makes a terminal for a program with these credentials.
pub(crate) fn terminal(
    credentials: &Credentials,
    size: WindowSize,
) -> Result<(Stdio, Ends), Failure> {
    let ours = terminal::make().or_failure("open", "/dev/ptmx")?;
    resize(&ours, size).or_failure("ioctl", "/dev/ptmx")?;
    let stdio = peer(&ours, credentials)?;
    let stdin = fd::duplicate(&ours).or_failure("fcntl", "/dev/ptmx")?;
    Ok((stdio, Ends { stdin: Some(stdin), stdout: ours, stderr: None }))
}

/// Opens another program's end of a terminal.
pub(crate) fn peer(ours: &Fd, credentials: &Credentials) -> Result<Stdio, Failure> {
    let theirs = terminal::peer(ours).or_failure("open", "terminal")?;
    if credentials.uid != 0 {
        // The group is kept: it lets other users write messages to the terminal.
        fd::change_owner(&theirs, credentials.uid, u32::MAX).or_failure("fchown", "terminal")?;
    }
    Ok(Stdio::Terminal(theirs))
}

/// Sets the size of a terminal's window.
pub(crate) fn resize(ours: &Fd, size: WindowSize) -> crate::sys::Result<()> {
    terminal::resize(ours, size.rows, size.columns)
}

/// Starts a program. Returns its process id and its start time.
pub(crate) fn start(
    spawner: &mut Spawner,
    null_device: &Fd,
    launch: &Launch,
    stdio: &Stdio,
    group: &mut Option<Group>,
) -> Result<(u32, u64), Failure> {
    let program = launch.argv.first().map_or(b"".as_slice(), Vec::as_slice);
    if program.is_empty() {
        return Err(failure("execve", program, Errno::INVAL));
    }
    let programs = candidates(program, launch.path.as_deref());
    let argv = c_strings(&launch.argv)?;
    let env = c_strings(&launch.env)?;
    let cwd = match launch.cwd.as_slice() {
        b"" | b"/" => None,
        cwd => Some(CString::new(cwd).map_err(|_| failure("chdir", cwd, Errno::INVAL))?),
    };
    let mut spec = SpawnSpec {
        programs: &pointers(&programs),
        argv: &pointers(&argv),
        env: &pointers(&env),
        cwd: cwd.as_deref(),
        stdio: match stdio {
            Stdio::Pipes { stdin, stdout, stderr } => {
                [stdin.as_ref().unwrap_or(null_device), stdout, stderr]
            }
            Stdio::Terminal(terminal) => [terminal; 3],
        },
        is_terminal: matches!(stdio, Stdio::Terminal(_)),
        group: group.as_ref().and_then(Group::directory),
        is_init: launch.is_init,
        limits: &launch.limits,
        credentials: &launch.account.credentials,
    };
    let started = clock::monotonic();
    let mut spawned = spawner.spawn(&spec);
    if let Err((Step::Clone, errno)) = spawned
        && errno != Errno::AGAIN
        && spec.group.take().is_some()
    {
        // Root in the guest may have removed the group, or made it one that takes no processes.
        spawned = spawner.spawn(&spec);
        if let Some(group) = group.take() {
            group.abandon();
        }
    }
    match spawned {
        Ok(pid) => Ok((pid, started)),
        Err((step, errno)) => Err(step_failure(step, program, launch, errno)),
    }
}

/// Converts a wait status into the exit that is reported to the host.
pub(crate) fn exit(ended: &ExitedChild, started: u64, now: u64, timed_out: bool) -> Exit {
    // The low seven bits are the signal, the next eight the code.
    let [low, code, ..] = ended.status.to_le_bytes();
    let status = match low & 0x7F {
        0 => ExitStatus::Code(code),
        signal => ExitStatus::Signal(signal),
    };
    let duration_us = now.saturating_sub(started) / 1000;
    Exit { status, timed_out, duration_us, peak_rss_kib: ended.peak_rss_kib }
}

/// Makes a pipe that the user may also open by name: images link logs to /dev/stderr.
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
    converted.map_err(|_| failure("execve", "argument with a zero byte", Errno::INVAL))
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([null()]).collect()
}

fn step_failure(step: Step, program: &[u8], launch: &Launch, errno: Errno) -> Failure {
    match step {
        Step::Clone => failure("clone", program, errno),
        Step::Mounts => failure("mount", "/", errno),
        Step::Processes => failure("mount", "/proc", errno),
        Step::ControlGroups => failure("mount", "/sys/fs/cgroup", errno),
        Step::Session => failure("setsid", program, errno),
        Step::Limits => failure("prlimit", program, errno),
        Step::Groups => failure("setgroups", program, errno),
        Step::Group => failure("setgid", program, errno),
        Step::User => failure("setuid", program, errno),
        Step::Directory => failure("chdir", &launch.cwd, errno),
        Step::Descriptors => failure("dup3", program, errno),
        Step::Terminal => failure("ioctl", "terminal", errno),
        Step::Signals => failure("sigprocmask", program, errno),
        Step::Execute => failure("execve", program, errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_status_is_a_code_or_a_signal() {
        let ended = |status| ExitedChild { pid: 1, status, peak_rss_kib: 7 };
        let code = exit(&ended(0x2A00), 1_000, 5_000, false);
        assert_eq!(code.status, ExitStatus::Code(42));
        assert_eq!((code.duration_us, code.peak_rss_kib), (4, 7));
        assert_eq!(exit(&ended(0x89), 0, 0, true).status, ExitStatus::Signal(9));
    }
}
