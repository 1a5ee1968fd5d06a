//! `supermachine logs`: prints the output of a machine's entrypoint.

use std::io;

use crate::background;
use crate::error::{BackgroundError, Error};
use crate::jobs::{self, Job};
use crate::machines::Machines;
use crate::stopped::StoppedMachine;

/// Print the output of a machine's entrypoint
///
/// The machine keeps the last 64 KiB of the output, including the output before its snapshot. Standard
/// output and standard error stay separate. The logs of a stopped machine stay until `rm`, or until a
/// machine of the same name starts. A job of `exec -d`, as web/1, has logs of its own.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the output of this machine
    #[arg(value_name = "MACHINE")]
    name: String,
    /// Print new output until the entrypoint exits or the machine stops; of a job, wait until it exits
    #[arg(short, long)]
    follow: bool,
}

/// Prints the output.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let machines = Machines::locate();
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    if jobs::is_job(&args.name) {
        let job = Job::find(&machines, &args.name)?;
        if args.follow {
            job.wait()?;
        }
        job.print_log(&mut stdout, &mut stderr)?;
        return Ok(0);
    }
    let machine = match background::connect_running(&args.name) {
        Err(Error::Background(BackgroundError::NotRunning { .. }))
            if StoppedMachine::find(&machines, &args.name).is_some() =>
        {
            StoppedMachine::print_log(&machines, &args.name, &mut stdout, &mut stderr)?;
            return Ok(0);
        }
        machine => machine?,
    };
    if !args.follow {
        machine.logs_to(&mut stdout, &mut stderr)?;
        return Ok(0);
    }
    match machine.follow_logs_to(&mut stdout, &mut stderr) {
        // The machine was stopped.
        Ok(_)
        | Err(
            supermachine::Error::Worker { source: supermachine::error::WorkerError::Gone }
            | supermachine::Error::Stopped,
        ) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
