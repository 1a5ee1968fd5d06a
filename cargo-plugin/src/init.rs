//! Who is PID 1 to the image's programs, on the command line.

use supermachine_baker::Init;

/// The process that is PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum InitArg {
    /// The agent of the machine, which reaps all processes
    #[default]
    Agent,
    /// The entrypoint, in a PID namespace of its own; for images that start an init, as systemd or s6
    Image,
}

impl From<InitArg> for Init {
    fn from(init: InitArg) -> Self {
        match init {
            InitArg::Agent => Self::Agent,
            InitArg::Image => Self::Image,
        }
    }
}
