//! `supermachine pause` and `unpause`: stop and continue the processors of machines in the background.

use crate::background;

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
    background::for_each(&args.names, |machines, name| Ok(machines.connect(name)?.vm().pause()?))
}

/// Continues all machines that it can. Returns 1 if one could not continue.
pub(crate) fn unpause(args: &UnpauseArgs) -> u8 {
    background::for_each(&args.names, |machines, name| Ok(machines.connect(name)?.vm().resume()?))
}
