//! From a machine that stands still to a snapshot in the store.

use supermachine_formats::Digest;
use supermachine_formats::pack::{Index, Place};
use supermachine_formats::snapshot::{ImageCommand, Snapshot, Stage, Stop, WorkingSet, Workload};
use supermachine_snapshots::pack::{Composition, MemoryChange, Pack};
use supermachine_vmm::{Captured, DirtyPages, Machine, MemoryFiles};

use crate::{BakeError, Store};

/// What a snapshot is, beyond what can be read from its machine.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) stage: Stage,
    pub(crate) parent: Digest,
    pub(crate) workload: Option<Workload>,
    pub(crate) stop: Option<Stop>,
    pub(crate) image_command: Option<ImageCommand>,
}

/// A machine's state and pages, not yet in the store.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) snapshot: Snapshot,
    dirty: DirtyPages,
}

/// What a capture is stored on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Behind<'a> {
    /// The parent.
    pub(crate) pack: &'a Pack,
    /// The parent's memory.
    pub(crate) memory: &'a MemoryFiles,
    /// Whether the parent's blobs are listed, or all is stored anew.
    pub(crate) is_listed: bool,
}

/// Captures a machine.
pub(crate) fn capture(machine: &Machine, kind: Kind) -> Result<Capture, BakeError> {
    let failed = |source: supermachine_vmm::MachineError| source.into();
    let captured = machine.capture().map_err(failed).map_err(BakeError::machine("capture"))?;
    let Captured { mut snapshot, dirty, .. } = captured;
    snapshot.machine.stage = kind.stage;
    snapshot.machine.parent = Some(kind.parent);
    snapshot.workload = kind.workload;
    snapshot.stop = kind.stop;
    snapshot.image_command = kind.image_command;
    snapshot.working_set = WorkingSet::default();
    Ok(Capture { snapshot, dirty })
}

impl Capture {
    /// Stores the capture; gives the manifest's digest.
    pub(crate) fn store(
        &self,
        store: &Store,
        behind: Behind<'_>,
        disks: Option<&Index>,
        first_use: Vec<Place>,
        level: i32,
    ) -> Result<Digest, BakeError> {
        let also = match behind.is_listed {
            true => Vec::new(),
            false => {
                let all = behind.pack.index.memory.flattened(0);
                all.chunks().filter_map(|(place, number)| number.map(|_| place)).collect()
            }
        };
        let composition = Composition {
            snapshot: &self.snapshot,
            parent: behind.is_listed.then_some(&behind.pack.index),
            memory: MemoryChange {
                origin: Some(behind.memory),
                pages: self
                    .dirty
                    .iter()
                    .map(|(page, content)| (page, content.as_slice()))
                    .collect(),
            },
            also,
            disks: disks.map(|index| vec![index]),
            first_use,
            level,
        };
        Ok(composition.store(store.layout())?.digest)
    }
}
