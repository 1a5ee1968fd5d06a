//! From a machine that stands still to a snapshot in the store.

use std::io;

use supermachine::machine::Machine;
use supermachine_formats::Digest;
use supermachine_formats::snapshot::{Snapshot, Stage, WorkingSet, Workload};

use crate::oci::BlobWriter;
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
    let mut pages = Pages(store.blobs().writer()?);
    let captured = machine
        .capture(&mut pages)
        .map_err(|source| BakeError::machine("capture")(source.into()))?;
    let mut snapshot = captured.snapshot;
    pages.0.commit_unnamed()?;
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

struct Pages(BlobWriter);

impl io::Write for Pages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
