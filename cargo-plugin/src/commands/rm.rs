//! `supermachine rm`: removes the names of snapshots, and the logs of stopped machines.

use std::time::Duration;

use supermachine_baker::{BakeError, Store, StoreError};

use crate::error::{BackgroundError, Error};
use crate::globals::Globals;
use crate::machines::Machines;
use crate::{background, store};

/// Remove snapshots, and the logs of stopped machines
///
/// Removes the names of snapshots at once. The files stay in the store until `supermachine gc` deletes them,
/// since other snapshots may use them and a new bake of the same image finds them.
///
/// A name can also be that of a stopped machine, whose logs are removed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove these snapshots and stopped machines
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Remove snapshots that machines use, which continue; stop a machine if there is no snapshot of its
    /// name
    #[arg(short, long)]
    force: bool,
}

/// Removes all names that it can. Returns 1 if one could not be removed.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let store = store::open_existing(globals.store.as_deref())?;
    Ok(background::for_each(&args.names, |machines, name| {
        remove(args, globals, store.as_ref(), machines, name)
    }))
}

fn remove(
    args: &Args,
    globals: &Globals,
    store: Option<&Store>,
    machines: &Machines,
    name: &str,
) -> Result<(), Error> {
    let dir = store::dir(globals.store.as_deref())?;
    let no_such_name =
        || BakeError::Store(StoreError::NoSuchName { name: name.to_owned(), store: dir.clone() });
    if let Some(store) = store
        && store.names()?.iter().any(|known| known == name)
    {
        let users = users(machines, &dir, name)?;
        if !users.is_empty() && !args.force {
            let name = name.to_owned();
            return Err(BackgroundError::SnapshotInUse { name, machines: users }.into());
        }
        store.remove(name)?;
        machines.forget_stopped(name)?;
        return Ok(());
    }
    if machines.names()?.iter().any(|known| known == name) {
        if !args.force {
            return Err(BackgroundError::StillRuns { name: name.to_owned() }.into());
        }
        background::stop(machines, name, Some(Duration::ZERO))?;
        machines.forget_stopped(name)?;
        return Ok(());
    }
    if machines.forget_stopped(name)? {
        return Ok(());
    }
    // Names that cannot be a snapshot's get an error of their own.
    store.map_or_else(|| Err(no_such_name()), |store| store.remove(name))?;
    Ok(())
}

/// The machines that run from a snapshot. Skips machines that do not answer.
fn users(
    machines: &Machines,
    store: &std::path::Path,
    snapshot: &str,
) -> Result<Vec<String>, Error> {
    let uses = |name: &String| {
        let label = machines.connect_now(name).and_then(|client| background::label(&client));
        label.is_ok_and(|label| label.snapshot == snapshot && label.store == store)
    };
    Ok(machines.names()?.into_iter().filter(uses).collect())
}
