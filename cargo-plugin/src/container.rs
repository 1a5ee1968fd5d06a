//! Options for the container that a snapshot fixes: what its processes see besides the image's files.

use supermachine_baker::{OciImageBuilder, Tmpfs};

use crate::machine_size;

/// Options for the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Container options")]
pub(crate) struct ContainerArgs {
    /// Make the root file system read-only; /dev, /dev/shm and --tmpfs stay writable
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Mount a file system in memory at PATH, as /run:size=64m,mode=755
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    pub(crate) tmpfs: Vec<Tmpfs>,
    /// Give /dev/shm this size, as 64m or 1g; a plain number is bytes [default: a quarter of the memory]
    #[arg(long, value_name = "SIZE", value_parser = machine_size::bytes)]
    pub(crate) shm_size: Option<u64>,
}

impl ContainerArgs {
    /// Applies the options to a bake.
    pub(crate) fn apply(&self, builder: OciImageBuilder) -> OciImageBuilder {
        let builder = builder.read_only_root(self.read_only).shm_size(self.shm_size.unwrap_or(0));
        self.tmpfs.iter().fold(builder, |builder, tmpfs| builder.tmpfs(tmpfs.clone()))
    }
}
