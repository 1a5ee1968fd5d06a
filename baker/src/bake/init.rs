//! Who is PID 1 to the image's programs.

use supermachine_formats::wire::Request;

/// The process that is PID 1 to the image's programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Init {
    /// The guest's agent, which reaps all processes.
    #[default]
    Agent,
    /// The entrypoint, in namespaces of its own, as in a container. It must reap orphans, and all
    /// processes are killed when it exits. For images whose entrypoint is an init: systemd,
    /// s6-overlay.
    Image,
}

impl Init {
    /// The request that starts the entrypoint.
    pub(crate) fn start(self) -> Request {
        match self {
            Self::Agent => Request::Start,
            Self::Image => Request::StartInit,
        }
    }
}
