//! Errors of the host.

use std::io;
use std::path::PathBuf;

use supermachine_vmm::HypervisorError;

/// What the host lacks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// The hypervisor cannot be used.
    #[error("this host cannot run machines; `supermachine doctor` says why and how to fix it")]
    Hypervisor { source: HypervisorError },
    /// The hypervisor interprets guest code.
    #[error(
        "this host's hypervisor interprets guest code, about {factor} times slower than hardware; \
         `supermachine doctor` says more"
    )]
    Slow { factor: u64 },
    /// The guest kernel or the agent is missing.
    #[error("cannot use the guest kernel or agent")]
    Assets { source: supermachine_kernel::Error },
    /// Neither `--store` nor a home folder is set.
    #[error("no folder for snapshots: give --store, or set SUPERMACHINE_STORE or HOME")]
    NoStore,
    /// Another user can write to the folder of machines.
    #[error(
        "{} is not a folder of yours alone (mode 0700); remove it, or set XDG_RUNTIME_DIR",
        path.display()
    )]
    SharedFolder { path: PathBuf },
    /// The terminal cannot be used.
    #[error("cannot use the terminal")]
    Terminal { source: io::Error },
    /// Signals cannot be handled.
    #[error("cannot handle signals")]
    Signals { source: io::Error },
    /// The host has no room for another thread.
    #[error("cannot start a thread")]
    Thread { source: io::Error },
}
