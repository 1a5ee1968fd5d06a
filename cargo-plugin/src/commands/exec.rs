//! `supermachine exec`: runs a command in a machine in the background.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use supermachine::worker;

use crate::background;
use crate::error::{BackgroundError, Error};
use crate::process::{self, ProcessArgs, STATUSES};

const EXAMPLES: &str = "\
Examples:
  supermachine exec web -- nginx -s reload
  supermachine exec -it web sh
  supermachine exec -i web -- sh -c 'cat > /tmp/input' < input
  supermachine exec -d web -- sh -c 'sleep 60; echo done'

The command is killed when this process exits or is killed. Its standard input is empty without -i. \
With -d, the command continues in the background as a job, whose name is printed, as web/1. `wait` and \
`logs` take the name of a job. A job ends with its machine.

";

/// Run a command in a machine in the background
///
/// Prints output as the command writes it, and exits with the command's status.
#[derive(Debug, clap::Args)]
#[command(after_help = [EXAMPLES, STATUSES].concat())]
#[command(override_usage = "supermachine exec [OPTIONS] <MACHINE> <COMMAND> [ARGUMENT]...")]
pub(crate) struct Args {
    /// Run the command in this machine
    #[arg(value_name = "MACHINE")]
    name: String,
    #[command(flatten)]
    process: ProcessArgs,
    /// Leave the command running in the background, and print the name of the job
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,
    /// Run this command with its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    argv: Vec<OsString>,
}

/// Runs a command and returns its exit status.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    if args.detach {
        return detach(args);
    }
    let machine = background::connect_running(&args.name)?;
    process::run(&machine, &args.argv, &args.process)
}

/// Starts an attendant for the command, and prints the name of the job.
fn detach(args: &Args) -> Result<u8, Error> {
    let failed = |source| BackgroundError::Spawn { source };
    worker::inherit_nothing().map_err(failed)?;
    let mut command = Command::new(env::current_exe().map_err(failed)?);
    command.arg("attend").args(args.process.words()?).arg(&args.name).arg("--").args(&args.argv);
    // The attendant must not keep the current folder busy.
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut attendant = command.spawn().map_err(failed)?;
    let mut line = String::new();
    if let Some(stdout) = attendant.stdout.take() {
        // An incomplete line counts as no name.
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    if line.ends_with('\n') {
        io::stdout().write_all(line.as_bytes()).map_err(|source| Error::Output { source })?;
        return Ok(0);
    }
    // The attendant printed why it failed, and its status is that of `exec`.
    if let Some(mut stderr) = attendant.stderr.take() {
        let mut reason = Vec::new();
        let _ = stderr.read_to_end(&mut reason);
        let _ = io::stderr().write_all(&reason);
    }
    let status = attendant.wait().map_err(failed)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(process::FAILED))
}
