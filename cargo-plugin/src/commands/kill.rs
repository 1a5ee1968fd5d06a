//! `supermachine kill`: sends signals to the entrypoints of machines in the background.

use std::time::Duration;

use crate::background;
use crate::error::Error;
use crate::machines::Machines;
use crate::signal_names;

const SIGKILL: u8 = 9;

/// Send a signal to machines in the background
///
/// Sends the signal to the entrypoint. KILL, the default, stops the machine at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Send the signal to these machines
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
    /// Send this signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signal_names::parse)]
    signal: u8,
}

/// Signals all machines that it can. Returns 1 if one could not be signalled.
pub(crate) fn exec(args: &Args) -> u8 {
    background::for_each(&args.names, |machines, name| send(machines, name, args.signal))
}

fn send(machines: &Machines, name: &str, signal: u8) -> Result<(), Error> {
    if signal == SIGKILL {
        return background::stop(machines, name, Some(Duration::ZERO));
    }
    Ok(background::connect_running(name)?.workload_signal(signal.into())?)
}
