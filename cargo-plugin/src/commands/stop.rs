//! `supermachine stop`: stops machines in the background.

use crate::background::{self, GracePeriod};

/// Stop machines in the background
///
/// Sends the entrypoint the stop signal of its image, or SIGTERM, and waits for it to exit. Then discards
/// the machine and everything in it, except the logs, which `logs` prints until `rm` or until a machine of
/// the same name starts.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Stop these machines
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
    #[command(flatten)]
    grace_period: GracePeriod,
}

/// Stops all machines that it can. Returns 1 if one could not be stopped, or had failed before.
pub(crate) fn exec(args: &Args) -> u8 {
    background::for_each(&args.names, |machines, name| {
        background::stop(machines, name, args.grace_period.time)
    })
}
