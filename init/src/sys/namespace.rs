//! Namespaces: those of an entrypoint that is PID 1, made by itself, and joined by the agent.

use core::ffi::CStr;

use linux_raw_sys::general as nr;

use rustix::fd::AsFd;
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use super::fd::Fd;
use super::mount::{mount, unmount};
use super::{Errno, Result};

const SAFE: u32 = nr::MS_NOSUID | nr::MS_NOEXEC | nr::MS_NODEV;

/// What a new process gets instead of the agent's: process ids and mounts.
pub(super) const NEW: ThreadNameSpaceType =
    ThreadNameSpaceType::PROCESS_ID.union(ThreadNameSpaceType::MOUNT);

/// Returns a descriptor of a process, which names its namespaces.
pub(crate) fn of(pid: u32) -> Result<Fd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::INVAL)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map(Fd::from)
}

/// Enters the process's mounts, and starts later processes among its processes. The root and the
/// working directory become the root of those mounts.
pub(crate) fn join_process(process: &Fd) -> Result<()> {
    // The kernel starts PID 1 with a root and a working directory that its own threads share, and
    // only a process that shares them with none may enter mounts.
    unshare(UnshareFlags::FS)?;
    join(process, NEW)
}

/// Enters mounts. The root and the working directory become their root.
pub(crate) fn join_mounts(mounts: &Fd) -> Result<()> {
    join(mounts, ThreadNameSpaceType::MOUNT)
}

/// Starts later processes in this namespace of processes.
pub(crate) fn join_processes(processes: &Fd) -> Result<()> {
    join(processes, ThreadNameSpaceType::PROCESS_ID)
}

fn join(namespace: &Fd, kinds: ThreadNameSpaceType) -> Result<()> {
    rustix::thread::move_into_thread_name_spaces(namespace.as_fd(), kinds)
}

/// Separates the calling process's mounts from those that they were copied from.
pub(super) fn separate_mounts() -> Result<()> {
    mount(c"none", c"/", c"", nr::MS_REC | nr::MS_PRIVATE, c"")
}

/// Shows the calling process's namespace of processes in /proc.
pub(super) fn show_processes() -> Result<()> {
    replace(c"/proc", c"proc", c"")
}

/// Makes the calling process's control group the root of all that it sees.
pub(super) fn show_group() -> Result<()> {
    unshare(UnshareFlags::NEWCGROUP)?;
    replace(c"/sys/fs/cgroup", c"cgroup2", c"nsdelegate")
}

fn unshare(kinds: UnshareFlags) -> Result<()> {
    // SAFETY: no caller separates the table of descriptors.
    unsafe { rustix::thread::unshare_unsafe(kinds) }
}

fn replace(target: &CStr, kind: &CStr, data: &CStr) -> Result<()> {
    unmount(target)?;
    mount(kind, target, kind, SAFE, data)
}
