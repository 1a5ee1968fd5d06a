//! `supermachine rename`: gives a machine in the background another name.

use crate::error::Error;
use crate::machines::Machines;

/// Give a machine in the background another name
///
/// All commands know the machine by its new name at once, and what runs in it is not disturbed. Its host name
/// does not change. A stopped machine whose logs are kept can get another name too.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rename this machine
    #[arg(value_name = "MACHINE")]
    old: String,
    /// Give it this name
    #[arg(value_name = "NAME")]
    new: String,
}

/// Renames the machine.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    Machines::locate().rename(&args.old, &args.new)?;
    Ok(0)
}
