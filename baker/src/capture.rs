//! From a machine that stands still to a snapshot in the store.

use supermachine::machine::{Machine, MachineError};
use supermachine_formats::Digest;
use supermachine_formats::snapshot::memory::Memory;
use supermachine_formats::snapshot::{Snapshot, Stage, WorkingSet, Workload};

use crate::{BakeError, Store};

/// What a snapshot is, beyond what can be read from its machine.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) stage: Stage,
    pub(crate) parent: Digest,
    pub(crate) workload: Option<Workload>,
}

/// Captures a machine. Its pages are in the store then; the state file is not.
pub(crate) fn capture(machine: &Machine, store: &Store, kind: Kind) -> Result<Snapshot, BakeError> {
    let error = |source: MachineError| BakeError::machine("capture")(source.into());
    let captured = machine.capture().map_err(error)?;
    let difference = machine.difference(&captured.dirty).map_err(error)?;
    let mut pages = store.blobs().writer()?;
    for page in difference.changed.iter().flat_map(|run| run.first..run.end()) {
        if let Some(content) = captured.dirty.page(page) {
            pages.write(content)?;
        }
    }
    let (blob, _) = pages.commit_unnamed()?;
    let mut snapshot = captured.snapshot;
    snapshot.memory = Memory { blob, own: difference.changed, zeroed: difference.zeroed };
    snapshot.machine.stage = kind.stage;
    snapshot.machine.parent = Some(kind.parent);
    snapshot.workload = kind.workload;
    snapshot.working_set = WorkingSet::default();
    Ok(snapshot)
}

/// Puts a state file into the store.
pub(crate) fn put_state(store: &Store, snapshot: &Snapshot) -> Result<Digest, BakeError> {
    Ok(store.blobs().put(&snapshot.encode())?)
}
