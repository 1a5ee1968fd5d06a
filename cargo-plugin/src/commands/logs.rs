//! `supermachine logs`: what the entrypoint of a machine has written.

use std::io;

use crate::error::Error;
use crate::machines::Machines;

/// Show what a machine's entrypoint has written
///
/// The machine itself keeps the last 64 KiB of it, from before its snapshot on. Standard output and
/// standard error go where they belong.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The machine's name
    #[arg(value_name = "MACHINE")]
    name: String,
    /// Go on with what it writes, until it or the machine ends
    #[arg(short, long)]
    follow: bool,
}

/// Passes the output on.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let machine = Machines::locate().connect(&args.name)?.vm();
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    if !args.follow {
        machine.logs_to(&mut stdout, &mut stderr)?;
        return Ok(0);
    }
    match machine.follow_logs_to(&mut stdout, &mut stderr) {
        // It was stopped, which ends what is followed.
        Ok(_) | Err(supermachine::Error::WorkerGone | supermachine::Error::Stopped) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
