//! Snapshots of running machines.
//!
//! The guest pauses only while its state and written pages are copied. Afterwards the pages are
//! compared with the machine's own snapshot, compressed and stored. The new snapshot is a child of
//! that one.

use std::time::Duration;

use supermachine_formats::snapshot::{Snapshot, Stage};

use crate::error::{InvalidInput, SnapshotError};
use crate::{Error, Image};
use supermachine_snapshots::pack::{Composition, Layout, MemoryChange, is_name};
use supermachine_vmm::{Machine, Timings};

/// The zstd level: low, as a caller waits.
const LEVEL: i32 = 3;

/// A snapshot of a running machine.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TakenSnapshot {
    /// The snapshot.
    pub image: Image,
    /// How long the guest was paused, by step.
    pub stopped: Timings,
    /// How long the whole call took.
    pub took: Duration,
}

/// Takes a snapshot of `machine`, which started from `origin`, into the store of `origin`.
pub(crate) fn take(machine: &Machine, origin: &Image, name: &str) -> Result<TakenSnapshot, Error> {
    let begin = std::time::Instant::now();
    if !is_name(name) {
        return Err(Error::Invalid {
            source: InvalidInput::SnapshotName { name: name.to_owned() },
        });
    }
    if !origin.source().is_folder() {
        return Err(Error::Snapshot {
            source: SnapshotError::NotAStore { path: origin.source().path().to_owned() },
        });
    }
    let layout = Layout::open(origin.source().path())?;
    // Blobs without a name would be swept.
    let _hold = layout.hold()?;
    let pack = origin.pack()?;
    // A machine that started on demand needs its origin expanded now.
    let memory = &origin.mapped()?.memory;
    let captured = machine.capture_live()?;
    let mut snapshot: Snapshot = captured.snapshot;
    snapshot.machine.stage = Stage::Live;
    snapshot.machine.parent = Some(origin.digest());
    // A start of the new snapshot touches about the same pages as one of its parent.
    snapshot.working_set = origin.snapshot().working_set.clone();
    let pages = captured.dirty.iter().map(|(page, content)| (page, content.as_slice()));
    let composition = Composition {
        snapshot: &snapshot,
        parent: Some(&pack.index),
        memory: MemoryChange { origin: Some(memory), pages: pages.collect() },
        also: Vec::new(),
        disks: None,
        first_use: pack.index.first_use.clone(),
        level: LEVEL,
    };
    let manifest = composition.store(&layout)?;
    // Opened before it is named: its parent may have been removed and swept, with chunks that it
    // needs.
    let image = origin.sibling(manifest.digest)?;
    layout.set_name(name, manifest)?;
    Ok(TakenSnapshot { image, stopped: captured.stopped, took: begin.elapsed() })
}
