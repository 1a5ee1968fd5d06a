//! The trial start: which pages a machine needs between its restore and its first command's
//! end.
//!
//! The snapshot is started once as a user would, a command is run, and the pages that were
//! used are written into the snapshot, so that later starts put them in place in bulk.

use std::sync::Arc;

use supermachine::agent::resume;
use supermachine::machine::{Machine, Restore};
use supermachine::{Error, Timings};
use supermachine_formats::Digest;
use supermachine_formats::snapshot::{Snapshot, WorkingSet};
use supermachine_formats::wire::{Command, Control, Request};

use crate::ask::ask;
use crate::capture::put_state;
use crate::{BakeError, Store};

/// How often a command is run before the capture.
const EXERCISES: usize = 3;

/// Starts the snapshot on trial, adds the pages that it used, and stores it.
pub(crate) fn record(store: &Store, mut snapshot: Snapshot) -> Result<Digest, BakeError> {
    let trial = put_state(store, &snapshot)?;
    let image = store.open_image(trial)?;
    let parts = Restore {
        snapshot: image.snapshot().clone(),
        memory: Arc::clone(image.memory()),
        disks: image.disks().to_vec(),
    };
    snapshot.working_set = used_pages(parts).map_err(BakeError::machine("trial start"))?;
    put_state(store, &snapshot)
}

fn used_pages(parts: Restore) -> Result<WorkingSet, Error> {
    let machine = Machine::restore(parts, &mut Timings::start())?;
    machine.send_control(&Control::Resume(resume(None)?))?;
    machine.run();
    run_command(&machine)?;
    let touched = machine.touched()?;
    // Pages that are only read are shared with the page cache; putting them in place ahead of
    // time costs as much as it saves.
    Ok(WorkingSet { read: Vec::new(), ..touched })
}

/// Runs commands as a user would, so that what the guest's kernel and agent set aside for one
/// is at hand, in few pages, when the first real one comes.
pub(crate) fn exercise(machine: &Machine) -> Result<(), Error> {
    (0..EXERCISES).try_for_each(|_| run_command(machine))
}

fn run_command(machine: &Machine) -> Result<(), Error> {
    // Not every image has this program; the way to finding that out is nearly the same.
    let command = Command { argv: vec![b"true".to_vec()], ..Command::default() };
    let mut replies = ask(machine, &Request::Exec(command))?;
    while !replies.next()?.is_final() {}
    Ok(())
}
