//! `supermachine kill`: sends signals to the entrypoints of machines in the background.

use crate::background;
use crate::error::Error;
use crate::machines::Machines;
use crate::signal_names;

const SIGKILL: u8 = 9;

/// Send a signal to machines in the background
///
/// Sends the signal to the entrypoint. KILL, the default, stops the machine at once. After KILL and the
/// machine's stop signal, --restart does not start it again.
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
        return background::kill(machines, name);
    }
    let machine = background::connect_running(name)?;
    let label = background::label(&machines.connect(name)?)?;
    if signal == label.stop_signal {
        // As in Docker, the entrypoint exits for good then.
        machines.mark_stopping(name)?;
    }
    background::record(machines, name, Some(&label), "kill", [("signal", signal.to_string())]);
    Ok(machine.workload_signal(signal.into())?)
}
