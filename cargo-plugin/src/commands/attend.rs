//! `supermachine attend`: holds a command in the background of a machine. `exec -d` starts it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use crate::background;
use crate::error::Error;
use crate::events::Event;
use crate::jobs::Job;
use crate::machines::Machines;
use crate::process::{self, ProcessArgs, signals};
use crate::stream_log::Stream;

/// Hold a command in the background of a machine; `exec --detach` starts this
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run the command in this machine
    name: String,
    #[command(flatten)]
    process: ProcessArgs,
    /// Run this command with its arguments
    #[arg(last = true, required = true)]
    argv: Vec<OsString>,
}

/// Starts the command, prints the job's name, and keeps its output until it exits.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    // The job outlives the terminal. This fails only in a process group leader, which `exec --detach`
    // does not start.
    let _ = rustix::process::setsid();
    let machines = Machines::locate();
    let machine = background::connect_running(&args.name)?;
    let mut child = process::start(&machine, &args.argv, &args.process)?;
    let (job, lock) = Job::create(&machines, &args.name)?;
    let log = Arc::new(Mutex::new(job.log()?));
    let (stdout, stderr) = Stream::pair(&log);
    let command = child.signaler();
    // The command may have exited.
    let _forwarding = signals::forward(move |signal| drop(command.signal(signal)))?;
    let record = |action: &str, more: (&str, String)| {
        let about = [("execID", job.name()), more];
        machines.events().record(&Event::new(action, &args.name, about));
    };
    let words: Vec<_> = args.argv.iter().map(|word| word.to_string_lossy()).collect();
    record("exec_start", ("command", words.join(" ")));
    announce(&job).map_err(|source| Error::Output { source })?;
    process::copy_output(&mut child, stdout, stderr)?;
    let outcome = child.wait()?;
    let status = process::of_outcome(&outcome);
    job.exited(status)?;
    record("exec_die", ("exitCode", status.to_string()));
    drop(lock);
    Ok(status)
}

/// Prints the job's name, and detaches from the standard streams.
fn announce(job: &Job) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", job.name())?;
    stdout.flush()?;
    let nowhere = std::fs::File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    Ok(())
}
