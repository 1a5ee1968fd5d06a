//! The agent's stay in the namespaces of an entrypoint that is PID 1.
//!
//! Such an entrypoint has processes, mounts and control groups of its own, as in a container. The agent
//! remains the machine's PID 1. It uses the entrypoint's mounts, and starts every process among the
//! entrypoint's, so that commands and files need no step of their own. It keeps its control
//! groups: it places commands outside of the entrypoint's.
//!
//! When the entrypoint exits, the kernel kills all processes of the namespace first. The agent then
//! leaves, as no process can be started there any more.

use linux_raw_sys::general as nr;
use supermachine_formats::wire::Failure;

use crate::failure::OrFailure;
use crate::sys::fd::{self, Fd};
use crate::sys::namespace::{join_mounts, join_process, join_processes, of};

/// The agent's own namespaces, to return to.
#[derive(Debug)]
pub(crate) struct Joined {
    processes: Fd,
    mounts: Fd,
    /// The entrypoint's process, which names its mounts.
    entrypoint: Fd,
}

impl Joined {
    /// Joins the process `pid`, which is the first of its namespaces.
    pub(crate) fn new(pid: u32) -> Result<Self, Failure> {
        let own = |path| fd::open(path, nr::O_RDONLY, 0).or_failure("open", path.to_bytes());
        let (processes, mounts) = (own(c"/proc/self/ns/pid")?, own(c"/proc/self/ns/mnt")?);
        let entrypoint = of(pid).or_failure("pidfd_open", "entrypoint")?;
        join_process(&entrypoint).or_failure("setns", "entrypoint")?;
        Ok(Self { processes, mounts, entrypoint })
    }

    /// Works among the agent's own mounts, and returns to the entrypoint's.
    pub(crate) fn outside(
        &self,
        work: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        join_mounts(&self.mounts).or_failure("setns", "mounts")?;
        let done = work();
        join_mounts(&self.entrypoint).or_failure("setns", "entrypoint")?;
        done
    }

    /// Returns to the agent's own namespaces.
    pub(crate) fn leave(&self) -> Result<(), Failure> {
        join_mounts(&self.mounts).or_failure("setns", "mounts")?;
        join_processes(&self.processes).or_failure("setns", "processes")
    }
}

/// Mounts among the mounts that programs see, and for an entrypoint with mounts of its own also among those
/// that it gets when it starts again.
pub(crate) fn everywhere(
    joined: Option<&Joined>,
    attach: impl Fn() -> Result<(), Failure>,
) -> Result<(), Failure> {
    attach()?;
    joined.map_or(Ok(()), |joined| joined.outside(&attach))
}
