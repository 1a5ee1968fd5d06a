//! Errors of machines in the background.

use std::io;

/// Why a machine in the background cannot be started or reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackgroundError {
    /// No machine of this name runs.
    #[error("no machine {name:?} runs; `supermachine ps` lists the machines that run")]
    NotRunning { name: String },
    /// The machine is paused.
    #[error("the machine {name} is paused; `supermachine unpause {name}` lets it continue")]
    Paused { name: String },
    /// The machine, or its agent, does not answer.
    #[error(
        "the machine {name} does not answer within {seconds} seconds; \
         `supermachine stop --time 0 {name}` stops it"
    )]
    Unresponsive { name: String, seconds: u64 },
    /// A machine still runs from the snapshot.
    #[error(
        "the snapshot {name} is in use by {}; stop them, or remove it with --force",
        machines.join(", ")
    )]
    SnapshotInUse { name: String, machines: Vec<String> },
    /// The machine runs, and cannot be removed.
    #[error("the machine {name} runs; stop it, or remove it with --force")]
    StillRuns { name: String },
    /// The machine has no such job.
    #[error("no job {name:?}; `supermachine exec -d` prints the names of jobs")]
    NoSuchJob { name: String },
    /// The network that the machine was given is none of this version's.
    #[error("the machine's network is not one that `supermachine run --net` takes: {reason}")]
    Network { reason: String },
    /// The port is not published.
    #[error(
        "port {port} of the machine {name} is not published; `supermachine run -p` publishes ports"
    )]
    NotPublished { name: String, port: String },
    /// Another machine has the name.
    #[error("a machine {name} runs already; stop it, or choose another --name")]
    NameTaken { name: String },
    /// Another machine has the new name of a machine.
    #[error("a machine {name} runs already; choose another name")]
    NewNameTaken { name: String },
    /// The machine waits for its next start.
    #[error("the machine {name} is about to start again; `supermachine ps` says when")]
    Restarting { name: String },
    /// The supervisor was started without a lock on the machine's name.
    #[error("the name {name} is not claimed for this process; use `supermachine run -d`")]
    NotClaimed { name: String },
    /// The supervisor's process cannot be started.
    #[error("cannot start a process for the machine")]
    Spawn { source: io::Error },
    /// The supervisor could not start its machine, and printed why.
    #[error("{reason}")]
    NotStarted { reason: String },
    /// The supervisor is another version of this program.
    #[error("process {pid}, which holds the machine, is another version of this program")]
    OtherVersion { pid: u32 },
    /// The guest failed before the machine was stopped.
    #[error("the machine {name} had failed before it was stopped")]
    HadFailed { name: String, source: supermachine::Error },
}
