//! `supermachine logs`: prints the output of a machine's entrypoint.

use std::io::{self, Write};

use supermachine::worker::Client;

use crate::error::{BackgroundError, Error};
use crate::jobs::{self, Job};
use crate::machines::Machines;
use crate::stopped::StoppedMachine;
use crate::stream_log::{self, CopyError};
use crate::{background, process, supervisor};

/// Print the output of a machine's entrypoint
///
/// The machine keeps the last 64 KiB of the output, including the output before its snapshot. Standard
/// output and standard error stay separate. The logs of a stopped machine stay until `rm`, or until a
/// machine of the same name starts. A machine that --restart starts again keeps up to 1 MiB of earlier output.
/// A job of `exec -d`, as web/1, has logs of its own.
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
    let client = match background::connect_unpaused(&args.name) {
        Err(Error::Background(BackgroundError::NotRunning { .. }))
            if StoppedMachine::find(&machines, &args.name).is_some() =>
        {
            StoppedMachine::print_log(&machines, &args.name, &mut stdout, &mut stderr)?;
            return Ok(0);
        }
        client => client?,
    };
    let earlier = supervisor::earlier_output(&machines.running(&args.name)?);
    let copied = stream_log::copy(&mut earlier.as_slice(), &mut stdout, &mut stderr);
    if let Err(CopyError::Write(source)) = copied {
        return Err(Error::Output { source });
    }
    // The output that was kept ends with that of an entrypoint that is about to be replaced.
    let is_replaced = background::label(&client)?.restarts_at.is_some();
    let machine = client.vm();
    if !args.follow {
        if !is_replaced {
            machine.logs_to(&mut stdout, &mut stderr)?;
        }
        return Ok(0);
    }
    follow(&client, is_replaced, &mut stdout, &mut stderr)
}

/// Prints new output until the machine stops, or its entrypoint exits and does not start again.
fn follow(
    client: &Client,
    mut is_replaced: bool,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> Result<u8, Error> {
    loop {
        let before = background::label(client)?;
        let followed = if is_replaced {
            client.vm().wait()
        } else {
            client.vm().follow_logs_to(stdout, stderr)
        };
        match followed {
            Ok(status) if background::await_restart(client, &before, process::of_exit(status))? => {
            }
            // The machine was stopped.
            Ok(_)
            | Err(
                supermachine::Error::Worker { source: supermachine::error::WorkerError::Gone }
                | supermachine::Error::Stopped,
            ) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
        is_replaced = false;
    }
}
