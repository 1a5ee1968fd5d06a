//! `supermachine pause` and `unpause`: stop and continue the processors of machines in the background.

use supermachine::worker::Client;

use crate::background;
use crate::machines::Machines;

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
    background::for_each(&args.names, |machines, name| {
        let client = machines.connect(name)?;
        client.vm().pause()?;
        record(machines, name, &client, "pause");
        Ok(())
    })
}

/// Continues all machines that it can. Returns 1 if one could not continue.
pub(crate) fn unpause(args: &UnpauseArgs) -> u8 {
    background::for_each(&args.names, |machines, name| {
        let client = machines.connect(name)?;
        client.vm().resume()?;
        record(machines, name, &client, "unpause");
        Ok(())
    })
}

fn record(machines: &Machines, name: &str, client: &Client, action: &str) {
    let label = background::label(client).ok();
    background::record(machines, name, label.as_ref(), action, []);
}
