//! `supermachine pause` and `unpause`: stop and continue the processors of machines in the background.

use crate::error::Error;
use crate::machines::Machines;
use crate::report;

/// Pause machines in the background
///
/// A paused machine keeps its memory and uses no processor. Commands in it wait, and new ones fail, until
/// `unpause`.
#[derive(Debug, clap::Args)]
pub(crate) struct PauseArgs {
    /// Pause these machines
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
}

/// Continue paused machines
#[derive(Debug, clap::Args)]
pub(crate) struct UnpauseArgs {
    /// Continue these machines
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
}

/// Pauses all machines that it can. Returns 1 if one could not be paused.
pub(crate) fn pause(args: &PauseArgs) -> u8 {
    each(&args.names, |machine| machine.pause())
}

/// Continues all machines that it can. Returns 1 if one could not continue.
pub(crate) fn unpause(args: &UnpauseArgs) -> u8 {
    each(&args.names, |machine| machine.resume())
}

fn each(
    names: &[String],
    act: impl Fn(&supermachine::Vm) -> Result<(), supermachine::Error>,
) -> u8 {
    let machines = Machines::locate();
    let mut status = 0;
    for name in names {
        let done = machines.connect(name).and_then(|client| act(&client.vm()).map_err(Error::from));
        if let Err(error) = done {
            report::error(&error);
            status = 1;
        }
    }
    status
}
