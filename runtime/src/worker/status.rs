//! What a worker reports of its machine.

use supermachine_vmm::GuestFailure;

use crate::ExitStatus;

/// The state of a machine that a worker holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The guest runs.
    Running,
    /// The guest is paused. See [`Vm::pause`](crate::Vm::pause).
    Paused,
    /// The guest runs, and its entrypoint has exited.
    EntrypointExited {
        /// How it exited.
        status: ExitStatus,
    },
    /// The guest has exited by itself. Its worker stays, to report it.
    Failed {
        /// How it exited.
        failure: GuestFailure,
        /// The last lines of the guest kernel's messages.
        console: String,
    },
}

/// The status of a machine, from its worker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The label that the server was given.
    pub label: String,
    /// The machine's state.
    pub state: State,
}
