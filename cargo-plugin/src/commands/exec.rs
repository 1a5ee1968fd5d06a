//! `supermachine exec`: a command in a machine that runs by itself.

use std::ffi::OsString;

use crate::error::Error;
use crate::machines::Machines;
use crate::process::{self, ProcessArgs, STATUSES};

const EXAMPLES: &str = "\
Examples:
  supermachine exec web -- nginx -s reload
  supermachine exec -it web -- sh
  supermachine exec -i web -- sh -c 'cat > /tmp/input' < input

The command ends with this one, also when that is killed. Its standard input is empty unless -i is \
given.

";

/// Run a command in a machine that runs by itself
///
/// Output comes as it is written, and the command's exit status is this one's.
#[derive(Debug, clap::Args)]
#[command(after_help = [EXAMPLES, STATUSES].concat())]
#[command(override_usage = "supermachine exec [OPTIONS] <MACHINE> -- <COMMAND> [ARGUMENT]...")]
pub(crate) struct Args {
    /// The machine's name
    #[arg(value_name = "MACHINE")]
    name: String,
    #[command(flatten)]
    process: ProcessArgs,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    argv: Vec<OsString>,
}

/// Runs a command and returns its exit status.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let machine = Machines::locate().connect(&args.name)?.vm();
    process::run(&machine, &args.argv, &args.process)
}
