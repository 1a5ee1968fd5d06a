//! `supermachine restart`: stops machines in the background, and starts them from their snapshots.

use std::time::Duration;

use super::stop::grace_period;
use crate::background::{self, Stop};
use crate::detach::{self, Start};
use crate::error::Error;
use crate::machines::Machines;
use crate::ports::Publish;
use crate::report;

/// Restart machines in the background
///
/// Stops each machine as `stop` does, and starts it again from its snapshot, with the same name, ports and
/// options. Everything that it wrote is gone.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Restart these machines
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
    /// Wait this long for the entrypoint; 0 stops the machine at once [default: 10, or the machine's
    /// --stop-timeout]
    #[arg(short, long, value_name = "SECONDS", value_parser = grace_period)]
    time: Option<Duration>,
}

/// Restarts all machines that it can. Returns 1 if one could not be restarted.
pub(crate) fn exec(args: &Args) -> u8 {
    let machines = Machines::locate();
    let mut status = 0;
    for name in &args.names {
        if let Err(error) = restart(&machines, name, args.time) {
            report::error(&error);
            status = 1;
        }
    }
    status
}

fn restart(machines: &Machines, name: &str, grace_period: Option<Duration>) -> Result<(), Error> {
    let label = background::label(&machines.connect(name)?)?;
    background::stop(machines, name, Stop { grace_period })?;
    let publish: Vec<Publish> = label.ports.iter().copied().map(Publish::from).collect();
    detach::start(&Start {
        store: &label.store,
        snapshot: &label.snapshot,
        name: Some(name),
        publish: &publish,
        options: &label.options,
    })?;
    Ok(())
}
