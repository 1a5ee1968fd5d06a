//! From a stopped machine to a snapshot in the store.

use supermachine_formats::Digest;
use supermachine_formats::pack::{Index, Place};
use supermachine_formats::snapshot::{
    AfterRestore, ImageCommand, Snapshot, Stage, Stop, WorkingSet, Workload,
};
use supermachine_snapshots::pack::{Composition, MemoryChange, Pack};
use supermachine_vmm::{Captured, DirtyPages, Machine, MemoryFiles};

use crate::error::BakeError;
use crate::store::Store;

/// The parts of a snapshot that its machine does not know.
#[derive(Debug)]
pub(crate) struct SnapshotInfo {
    pub(crate) stage: Stage,
    pub(crate) parent: Digest,
    pub(crate) workload: Option<Workload>,
    pub(crate) stop: Option<Stop>,
    pub(crate) image_command: Option<ImageCommand>,
    pub(crate) after_restore: Option<AfterRestore>,
}

/// A machine's state and pages, not yet in the store.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) snapshot: Snapshot,
    dirty: DirtyPages,
}

/// The parent of a capture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parent<'a> {
    /// Its pack.
    pub(crate) pack: &'a Pack,
    /// Its memory.
    pub(crate) memory: &'a MemoryFiles,
    /// Whether to reference its blobs, instead of storing all content again.
    pub(crate) is_listed: bool,
}

/// Captures a machine.
pub(crate) fn capture(machine: &Machine, info: SnapshotInfo) -> Result<Capture, BakeError> {
    let failed = |source: supermachine_vmm::MachineError| source.into();
    let captured = machine.capture().map_err(failed).map_err(BakeError::machine("capture"))?;
    let Captured { mut snapshot, dirty, .. } = captured;
    snapshot.machine.stage = info.stage;
    snapshot.machine.parent = Some(info.parent);
    snapshot.workload = info.workload;
    snapshot.stop = info.stop;
    snapshot.image_command = info.image_command;
    snapshot.after_restore = info.after_restore;
    snapshot.working_set = WorkingSet::default();
    Ok(Capture { snapshot, dirty })
}

impl Capture {
    /// Stores the capture. Returns the digest of its manifest.
    pub(crate) fn store(
        &self,
        store: &Store,
        parent: Parent<'_>,
        disks: Option<&Index>,
        first_use: Vec<Place>,
        level: i32,
    ) -> Result<Digest, BakeError> {
        let also = match parent.is_listed {
            true => Vec::new(),
            false => {
                let all = parent.pack.index.memory.flattened(0);
                all.chunks().filter_map(|(place, number)| number.map(|_| place)).collect()
            }
        };
        let composition = Composition {
            snapshot: &self.snapshot,
            parent: parent.is_listed.then_some(&parent.pack.index),
            memory: MemoryChange {
                origin: Some(parent.memory),
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
