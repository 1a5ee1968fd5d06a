//! `supermachine restart`: stops machines in the background, and starts them from their snapshots.

use std::time::Duration;

use crate::background::{self, GracePeriod};
use crate::detach::{self, Start};
use crate::error::Error;
use crate::machines::Machines;
use crate::ports::Publish;

/// Restart machines in the background
///
/// Stops each machine as `stop` does, and starts it again from its snapshot, with the same name, ports and
/// options. Everything that it wrote is gone.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Restart these machines
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
    #[command(flatten)]
    grace_period: GracePeriod,
}

/// Restarts all machines that it can. Returns 1 if one could not be restarted.
pub(crate) fn exec(args: &Args) -> u8 {
    let time = args.grace_period.time;
    background::for_each(&args.names, |machines, name| restart(machines, name, time))
}

fn restart(machines: &Machines, name: &str, time: Option<Duration>) -> Result<(), Error> {
    let label = background::label(&machines.connect(name)?)?;
    background::stop(machines, name, time)?;
    let publish: Vec<Publish> = label.ports.iter().copied().map(Publish::from).collect();
    detach::start(&Start {
        store: &label.store,
        snapshot: &label.snapshot,
        name: Some(name),
        publish: &publish,
        options: &label.options,
    })?;
    background::record(machines, name, Some(&label), "restart", []);
    Ok(())
}
