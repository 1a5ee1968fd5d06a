//! `supermachine wait`: waits for the entrypoints of machines in the background.

use std::io::{self, Write};

use crate::background;
use crate::error::{BackgroundError, Error};
use crate::jobs::{self, Job};
use crate::machines::Machines;
use crate::process;
use crate::stopped::StoppedMachine;

/// Wait until the entrypoints of machines exit
///
/// Prints the exit status of each, as a shell reports it: 128+N for signal N. The status of a stopped
/// machine is known as long as its logs; it is 137 if the machine was stopped before its entrypoint exited.
/// A machine that starts again, as --restart asked for, is waited for until it does not. Also waits for jobs
/// of `exec -d`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Wait for these machines or jobs
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
}

/// The status of an entrypoint that the end of its machine killed: 128 and SIGKILL.
const KILLED: u8 = 137;

/// Waits for each, and prints its status.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let machines = Machines::locate();
    for name in &args.names {
        let status = wait(&machines, name)?;
        writeln!(io::stdout(), "{status}").map_err(|source| Error::Output { source })?;
    }
    Ok(0)
}

fn wait(machines: &Machines, name: &str) -> Result<u8, Error> {
    if jobs::is_job(name) {
        return Ok(Job::find(machines, name)?.wait()?.unwrap_or(KILLED));
    }
    let stopped = |machine: StoppedMachine| machine.status.unwrap_or(KILLED);
    let client = match machines.connect(name) {
        Ok(client) => client,
        Err(error @ Error::Background(BackgroundError::NotRunning { .. })) => {
            return StoppedMachine::find(machines, name).map(stopped).ok_or(error);
        }
        Err(error) => return Err(error),
    };
    loop {
        let before = background::label(&client)?;
        match client.vm().wait() {
            Ok(status) => {
                let status = process::of_exit(status);
                if !background::await_restart(&client, &before, status)? {
                    return Ok(status);
                }
            }
            Err(error) if is_gone(&error) => {
                return Ok(StoppedMachine::find(machines, name).map_or(KILLED, stopped));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the machine has been stopped.
fn is_gone(error: &supermachine::Error) -> bool {
    matches!(
        error,
        supermachine::Error::Worker { source: supermachine::error::WorkerError::Gone }
            | supermachine::Error::Stopped
    )
}
