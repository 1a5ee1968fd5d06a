//! Child processes: start, signals and exit.
//!
//! A child is made by `clone3` with `CLONE_VM | CLONE_VFORK`: it runs on a stack of its own in the
//! agent's memory while the agent is suspended, until it has executed the new program or failed.
//! No page table is copied, and a failure is written into the agent's memory. The child does not
//! allocate or lock.
//!
//! Calls of our own are those that rustix does not have (`clone3`, `signalfd4`), has for libc-like
//! runtimes only (`execve`, `rt_sigprocmask`, `exit_group`), or has with less than we need: its
//! `wait4` reports no memory, its `kill` takes no real-time signal without unsafe code, and its
//! `prlimit64` takes no number of a resource.

use core::ffi::{CStr, c_char, c_void};

use linux_raw_sys::general as nr;
use linux_raw_sys::general::clone_args;
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;
use supermachine_formats::wire::Ulimit;

use super::fd::{Fd, make_standard};
use super::{Errno, Result, arch, call, flags, int, map, namespace};

/// Size of the children's stack.
const STACK: usize = 32 << 10;
/// Bytes of the kernel's signal set.
const SIGNAL_SET: usize = 8;
/// The signal that cannot be caught.
pub(crate) const SIGKILL: u8 = 9;
/// The default limit of open files.
const FILES: u64 = 1024;
/// The highest limit of open files, and the agent's own.
const MOST_FILES: u64 = 1 << 20;

/// The user and groups of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: alloc::vec::Vec<Gid>,
}

/// All that a child needs, prepared before it exists.
#[derive(Debug)]
pub(crate) struct SpawnSpec<'a> {
    /// The files to try, in order; terminated by null.
    pub(crate) programs: &'a [*const c_char],
    /// Arguments; terminated by null.
    pub(crate) argv: &'a [*const c_char],
    /// Environment; terminated by null.
    pub(crate) env: &'a [*const c_char],
    /// The working directory, if not the agent's.
    pub(crate) cwd: Option<&'a CStr>,
    /// Standard input, output and error. They must not be descriptors 0 to 2.
    pub(crate) stdio: [&'a Fd; 3],
    /// Whether standard input is a terminal, which becomes the session's own.
    pub(crate) is_terminal: bool,
    /// The directory of the control group to start in, if not the agent's.
    pub(crate) group: Option<&'a Fd>,
    /// Whether it becomes PID 1 of namespaces of its own.
    pub(crate) is_init: bool,
    /// The limits that differ from the defaults. The last one of a resource holds.
    pub(crate) limits: &'a [Ulimit],
    /// The user and groups to run as.
    pub(crate) credentials: &'a Credentials,
}

/// What a child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Clone,
    Mounts,
    Processes,
    ControlGroups,
    Session,
    Limits,
    Groups,
    Group,
    User,
    Directory,
    Descriptors,
    Terminal,
    Signals,
    Execute,
}

const EVERYTHING_AS_IT_IS: clone_args = clone_args {
    flags: 0,
    pidfd: 0,
    child_tid: 0,
    parent_tid: 0,
    exit_signal: 0,
    stack: 0,
    stack_size: 0,
    tls: 0,
    set_tid: 0,
    set_tid_size: 0,
    cgroup: 0,
};

struct Job<'a> {
    spec: &'a SpawnSpec<'a>,
    files: Rlimit,
    failure: Option<(Step, Errno)>,
}

/// Starts processes. Owns the stack that they start on.
#[derive(Debug)]
pub(crate) struct Spawner {
    stack: *mut u8,
    /// A child's limit of open files: by default, and at most.
    files: Rlimit,
}

impl Spawner {
    pub(crate) fn new() -> Result<Self> {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let current = Some(maximum.map_or(FILES, |most| FILES.min(most)));
        Ok(Self { stack: map(STACK)?, files: Rlimit { current, maximum } })
    }

    /// Starts a process in a session and process group of its own. Returns once the program
    /// runs, or says at which step it failed.
    pub(crate) fn spawn(
        &mut self,
        spec: &SpawnSpec<'_>,
    ) -> core::result::Result<u32, (Step, Errno)> {
        let mut job = Job { spec, files: self.files, failure: None };
        let mut how = clone_args {
            flags: u64::from(nr::CLONE_VM | nr::CLONE_VFORK),
            exit_signal: u64::from(nr::SIGCHLD),
            stack: self.stack as u64,
            stack_size: STACK as u64,
            ..EVERYTHING_AS_IT_IS
        };
        if let Some(group) = spec.group {
            how.flags |= nr::CLONE_INTO_CGROUP;
            how.cgroup = group.register() as u64;
        }
        if spec.is_init {
            how.flags |= u64::from(namespace::NEW.bits());
        }
        let argument = core::ptr::from_mut(&mut job).cast();
        // SAFETY: the stack is ours, page-aligned and used by one child at a time, because the
        // agent stands still until the child has left; `child` takes a job.
        let result = unsafe { arch::clone(&how, child, argument) };
        let pid = super::decode(result).map_err(|errno| (Step::Clone, errno))?;
        // SAFETY: a live local, which the child may have changed behind the compiler's back.
        let failure = unsafe { core::ptr::from_ref(&job.failure).read_volatile() };
        match failure {
            Some(failure) => {
                // The failed child is reaped here, so that it is not taken for a command.
                let _ = wait(i32::try_from(pid).unwrap_or(-1), 0);
                Err(failure)
            }
            None => Ok(u32::try_from(pid).unwrap_or(0)),
        }
    }
}

/// # Safety
/// `argument` is a [`Job`] that nobody else touches.
unsafe extern "C" fn child(argument: *mut c_void) -> ! {
    // SAFETY: the caller's promise.
    let job = unsafe { &mut *argument.cast::<Job<'_>>() };
    job.failure = Some(become_program(job.spec, job.files));
    loop {
        // SAFETY: ends only this child.
        let _ = unsafe { call(nr::__NR_exit_group, [127, 0, 0, 0, 0, 0]) };
    }
}

/// Returns only on failure.
fn become_program(spec: &SpawnSpec<'_>, files: Rlimit) -> (Step, Errno) {
    match prepare(spec, files) {
        Err(failure) => failure,
        Ok(()) => (Step::Execute, execute(spec)),
    }
}

fn prepare(spec: &SpawnSpec<'_>, files: Rlimit) -> core::result::Result<(), (Step, Errno)> {
    let at = |step| move |errno| (step, errno);
    if spec.is_init {
        namespace::separate_mounts().map_err(at(Step::Mounts))?;
        namespace::show_processes().map_err(at(Step::Processes))?;
        if spec.group.is_some() {
            namespace::show_group().map_err(at(Step::ControlGroups))?;
        }
    }
    rustix::process::setsid().map_err(at(Step::Session))?;
    setrlimit(Resource::Nofile, files).map_err(at(Step::Limits))?;
    for each in spec.limits {
        limit(each).map_err(at(Step::Limits))?;
    }
    let Credentials { uid, gid, groups } = spec.credentials;
    if *uid != 0 || *gid != 0 || !groups.is_empty() {
        let (user, group) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
        rustix::thread::set_thread_groups(groups).map_err(at(Step::Groups))?;
        rustix::thread::set_thread_res_gid(group, group, group).map_err(at(Step::Group))?;
        rustix::thread::set_thread_res_uid(user, user, user).map_err(at(Step::User))?;
    }
    if let Some(cwd) = spec.cwd {
        rustix::process::chdir(cwd).map_err(at(Step::Directory))?;
    }
    make_standard(spec.stdio).map_err(at(Step::Descriptors))?;
    if spec.is_terminal {
        let [input, ..] = spec.stdio;
        rustix::process::ioctl_tiocsctty(input).map_err(at(Step::Terminal))?;
    }
    set_signal_mask(0).map_err(at(Step::Signals))
}

/// Tries each program as `execvp` does: one that may not be run is remembered, while a later
/// one may still serve.
fn execute(spec: &SpawnSpec<'_>) -> Errno {
    let mut result = Errno::NOENT;
    for program in spec.programs.iter().take_while(|program| !program.is_null()) {
        let (argv, env) = (spec.argv.as_ptr() as usize, spec.env.as_ptr() as usize);
        let arguments = [*program as usize, argv, env, 0, 0, 0];
        // SAFETY: the spec's strings are terminated and its lists end with null; the agent's memory
        // stays as it is while the child uses it.
        match unsafe { call(nr::__NR_execve, arguments) } {
            Err(Errno::ACCESS) => result = Errno::ACCESS,
            Err(Errno::NOENT | Errno::NOTDIR) | Ok(_) => {}
            Err(errno) => return errno,
        }
    }
    result
}

/// Blocks the signals of `mask`, and only them.
fn set_signal_mask(mask: u64) -> Result<()> {
    let address = core::ptr::from_ref(&mask) as usize;
    let arguments = [flags(nr::SIG_SETMASK), address, 0, SIGNAL_SET, 0, 0];
    // SAFETY: the kernel reads one signal set.
    unsafe { call(nr::__NR_rt_sigprocmask, arguments) }.map(drop)
}

/// Blocks every signal, and returns a descriptor that reports exited children.
pub(crate) fn child_signals() -> Result<Fd> {
    set_signal_mask(u64::MAX)?;
    let mask = 1_u64 << (nr::SIGCHLD - 1);
    let how = flags(nr::O_CLOEXEC | nr::O_NONBLOCK);
    let address = core::ptr::from_ref(&mask) as usize;
    // SAFETY: the kernel reads one signal set.
    unsafe { call(nr::__NR_signalfd4, [int(-1), address, SIGNAL_SET, how, 0, 0]) }.map(Fd::adopt)
}

/// Lifts the limits that the kernel derives from the memory size, as container programs do:
/// the agent may open as many files as a program may at most, and no count of processes binds.
pub(crate) fn raise_own_limits() -> Result<()> {
    let files = Some(MOST_FILES);
    setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files })?;
    setrlimit(Resource::Nproc, Rlimit { current: None, maximum: None })
}

/// Drops the right to halt or reset the machine for every program that starts from now on: the host
/// relies on the agent, and a halted guest reports nothing.
pub(crate) fn keep_reboot_to_us() -> Result<()> {
    rustix::thread::remove_capability_from_bounding_set(CapabilitySet::SYS_BOOT)
}

/// Sets a limit of the calling process.
fn limit(new: &Ulimit) -> Result<()> {
    let limits = [new.soft, new.hard];
    let arguments = [0, usize::from(new.resource), limits.as_ptr() as usize, 0, 0, 0];
    // SAFETY: the kernel reads one limit, and writes none.
    unsafe { call(nr::__NR_prlimit64, arguments) }.map(drop)
}

/// A child that has exited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExitedChild {
    pub(crate) pid: u32,
    /// As `wait4` reports it.
    pub(crate) status: i32,
    pub(crate) peak_rss_kib: u64,
}

/// Reaps the next child that has exited. Returns `None` if there is none.
pub(crate) fn reap() -> Result<Option<ExitedChild>> {
    match wait(-1, nr::WNOHANG) {
        Err(Errno::CHILD) => Ok(None),
        other => other,
    }
}

fn wait(pid: i32, how: u32) -> Result<Option<ExitedChild>> {
    let mut status = 0_i32;
    let mut usage = core::mem::MaybeUninit::<nr::rusage>::zeroed();
    let status_address = core::ptr::from_mut(&mut status) as usize;
    let usage_address = usage.as_mut_ptr() as usize;
    let arguments = [int(pid), status_address, flags(how), usage_address, 0, 0];
    // SAFETY: the kernel writes one status and one usage.
    let pid = unsafe { call(nr::__NR_wait4, arguments) }?;
    // SAFETY: the structure is plain numbers and was zeroed before.
    let usage = unsafe { usage.assume_init() };
    let peak_rss_kib = usage.ru_maxrss.cast_unsigned();
    let pid = u32::try_from(pid).unwrap_or(0);
    Ok((pid != 0).then_some(ExitedChild { pid, status, peak_rss_kib }))
}

/// Sends a signal to a process.
pub(crate) fn signal(pid: u32, signal: u8) -> Result<()> {
    kill(i32::try_from(pid).unwrap_or(i32::MAX), signal)
}

/// Sends a signal to every process of a group.
pub(crate) fn signal_group(group: u32, signal: u8) -> Result<()> {
    kill(i32::try_from(group).map_or(i32::MIN + 1, |group| -group), signal)
}

fn kill(target: i32, signal: u8) -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe { call(nr::__NR_kill, [int(target), usize::from(signal), 0, 0, 0, 0]) }.map(drop)
}

/// What a test needs to run the agent's server in a process of its own.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    unsafe extern "C" {
        /// The C library's: it makes the allocator of the new process usable.
        fn fork() -> i32;
    }

    /// Runs `serve` in a new process, which keeps only standard descriptors and the two given
    /// ones, adopts orphans as PID 1 does, and is killed when the test exits.
    pub(crate) fn fork_server(control: &Fd, listener: &Fd, serve: fn(Fd, Fd)) -> u32 {
        // SAFETY: the new process has one thread and calls no handler of the old ones.
        let pid = unsafe { fork() };
        if pid != 0 {
            return u32::try_from(pid).unwrap();
        }
        let (low, high) = (200_usize, 201_usize);
        let last = usize::try_from(u32::MAX).unwrap();
        for (number, arguments) in [
            (
                nr::__NR_prctl,
                [linux_raw_sys::prctl::PR_SET_CHILD_SUBREAPER as usize, 1, 0, 0, 0, 0],
            ),
            (nr::__NR_prctl, [linux_raw_sys::prctl::PR_SET_PDEATHSIG as usize, 9, 0, 0, 0, 0]),
            (nr::__NR_dup3, [control.register(), low, flags(nr::O_CLOEXEC), 0, 0, 0]),
            (nr::__NR_dup3, [listener.register(), high, flags(nr::O_CLOEXEC), 0, 0, 0]),
            (nr::__NR_close_range, [3, low - 1, 0, 0, 0, 0]),
            (nr::__NR_close_range, [high + 1, last, 0, 0, 0, 0]),
        ] {
            // SAFETY: no memory is involved, and the new process owns all its descriptors.
            unsafe { call(number, arguments) }.unwrap();
        }
        serve(Fd::adopt(low), Fd::adopt(high));
        loop {
            // SAFETY: ends only this process.
            let _ = unsafe { call(nr::__NR_exit_group, [0; 6]) };
        }
    }

    /// Waits for a server to exit.
    pub(crate) fn join(pid: u32) {
        let _ = wait(i32::try_from(pid).unwrap(), 0);
    }
}
