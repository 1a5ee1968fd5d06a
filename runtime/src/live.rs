//! Snapshots of running machines.
//!
//! The guest stands still only while its state and written pages are copied; what they
//! differ in from the snapshot that the machine began from is found out, compressed and
//! stored afterwards. The new snapshot is a child of that one.

use std::time::Duration;

use supermachine_formats::snapshot::{Snapshot, Stage};

use crate::{Error, Image, Timings};
use supermachine_snapshots::pack::{Composition, Layout, MemoryChange, is_name};
use supermachine_vmm::Machine;

/// How hard to compress, as zstd counts: somebody waits for it.
const LEVEL: i32 = 3;

/// A snapshot that was taken of a running machine.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Snapshotted {
    /// The snapshot.
    pub image: Image,
    /// How long the guest stood still, step by step.
    pub stopped: Timings,
    /// How long all of it took.
    pub took: Duration,
}

/// Takes a snapshot of `machine`, which began from `origin`, into the store of that.
pub(crate) fn take(machine: &Machine, origin: &Image, name: &str) -> Result<Snapshotted, Error> {
    let begin = std::time::Instant::now();
    if !is_name(name) {
        return Err(Error::InvalidName { name: name.to_owned() });
    }
    if !origin.source().is_folder() {
        return Err(Error::NotAStore { path: origin.source().path().to_owned() });
    }
    let layout = Layout::open(origin.source().path())?;
    // What is stored must not be swept away before it has its name.
    let _hold = layout.hold()?;
    let pack = origin.pack()?;
    // A machine that started before its snapshot was expanded needs that done now.
    let memory = &origin.mapped()?.memory;
    let captured = machine.capture_live()?;
    let mut snapshot: Snapshot = captured.snapshot;
    snapshot.machine.stage = Stage::Live;
    snapshot.machine.parent = Some(origin.digest());
    // A start of the new snapshot uses about the same as one of its parent.
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
    // It is opened before it is named: the parent, which this machine still has, may have been
    // removed and swept away, and its chunks with it.
    let image = origin.sibling(manifest.digest)?;
    layout.set_name(name, manifest)?;
    Ok(Snapshotted { image, stopped: captured.stopped, took: begin.elapsed() })
}
