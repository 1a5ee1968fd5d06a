//! `supermachine rm`: names are forgotten.

use supermachine_baker::BakeError;

use crate::error::Error;
use crate::{Globals, report, store};

/// Forget snapshots
///
/// The names are gone at once. Files stay in the store, since other snapshots may build on them, and
/// so that the same image need not be baked again, until `supermachine gc` removes them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The snapshots
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Removes all that can be removed. The status is 1 if one could not.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let store = store::open_existing(globals.store.as_deref())?;
    let dir = store::dir(globals.store.as_deref())?;
    let mut status = 0;
    for name in &args.names {
        let no_such_name = || BakeError::NoSuchName { name: name.clone(), store: dir.clone() };
        let done = store.as_ref().ok_or_else(no_such_name).and_then(|store| store.remove(name));
        if let Err(error) = done {
            report::error(&error);
            status = 1;
        }
    }
    Ok(status)
}
