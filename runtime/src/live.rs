//! Snapshots and forks of running machines.
//!
//! The guest pauses only while its state and written pages are copied. Afterwards the pages are
//! compared with the machine's own snapshot, compressed and stored. The new snapshot is a child of
//! that one. All of this happens in the process that has the store; if a worker holds the machine,
//! it only captures, and its capture is not trusted: what a machine cannot change comes from its
//! own snapshot.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use supermachine_formats::snapshot::{Snapshot, Stage, device::Slot};

use crate::error::{InvalidInput, SnapshotError, WorkerError};
use crate::image::default_cache;
use crate::machine::{MachineHandle, StoredSnapshot, explained};
use crate::{Error, Image};
use supermachine_snapshots::pack::{Composition, Layout, MemoryChange, Source, is_name};
use supermachine_vmm::{Captured, Timings};

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

/// Takes a snapshot of a machine, which started from `origin`, into the store of `origin`. Without
/// `origin`, the process that shares the machine takes it, into its own store.
pub(crate) fn take(
    machine: &dyn MachineHandle,
    origin: Option<&Image>,
    name: &str,
) -> Result<TakenSnapshot, Error> {
    let Some(origin) = origin else { return request(machine, name) };
    let begin = Instant::now();
    if !is_name(name) {
        return Err(InvalidInput::SnapshotName { name: name.to_owned() }.into());
    }
    if !origin.source().is_folder() {
        return Err(SnapshotError::NotAStore { path: origin.source().path().to_owned() }.into());
    }
    let layout = Layout::open(origin.source().path())?;
    // Blobs without a name would be swept.
    let _hold = layout.hold()?;
    let pack = origin.pack()?;
    // A machine that started on demand needs its origin expanded now.
    let memory = &origin.stored_memory()?;
    let Captured { snapshot, dirty, stopped } = capture(machine, origin.snapshot())?;
    let snapshot = child(origin, snapshot)?;
    let forked = origin.forked_pages()?;
    let mut pages: BTreeMap<u64, &[u8]> =
        forked.iter().map(|(page, content)| (*page, content.as_slice())).collect();
    pages.extend(dirty.iter().map(|(page, content)| (page, content.as_slice())));
    let composition = Composition {
        snapshot: &snapshot,
        parent: Some(&pack.index),
        memory: MemoryChange { origin: Some(memory), pages: pages.into_iter().collect() },
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
    Ok(TakenSnapshot { image, stopped, took: begin.elapsed() })
}

/// The image of a machine, which started from `origin`, as it is now. It is in memory: forks start
/// from it, and nothing is stored. The machine continues.
pub(crate) fn fork(machine: &dyn MachineHandle, origin: &Image) -> Result<Image, Error> {
    // As for a snapshot, before the machine stops.
    origin.mapped()?;
    let Captured { snapshot, dirty, .. } = capture(machine, origin.snapshot())?;
    origin.forked(child(origin, snapshot)?, &dirty)
}

/// Captures the machine, here or in its worker. It continues.
fn capture(machine: &dyn MachineHandle, origin: &Snapshot) -> Result<Captured, Error> {
    match machine.keep_alive() {
        Some(here) => here.capture_live().map_err(|error| explained(error, machine.exit())),
        None => machine.request_capture(origin.machine.memory_size),
    }
}

/// The state of a child of `origin`: processors and devices as they were captured, and all else
/// as in `origin`. A start of the child touches about the same pages as one of its parent.
fn child(origin: &Image, captured: Snapshot) -> Result<Snapshot, Error> {
    let mut snapshot = Snapshot::clone(origin.snapshot());
    let is_same = captured.arch.architecture() == snapshot.arch.architecture()
        && captured.machine == snapshot.machine
        && captured.disks == snapshot.disks;
    if !is_same {
        return Err(WorkerError::OtherMachine.into());
    }
    let is_root = |slot: &Slot| matches!(slot, Slot::Volume(_, volume) if volume.target == "/");
    if captured.slots.iter().any(is_root) {
        return Err(SnapshotError::LayerOnDisk.into());
    }
    snapshot.hypervisor = captured.hypervisor;
    snapshot.arch = captured.arch;
    snapshot.slots = captured.slots;
    snapshot.serial = captured.serial;
    snapshot.machine.stage = Stage::Live;
    snapshot.machine.parent = Some(origin.digest());
    Ok(snapshot)
}

/// Has the process that shares its machine take a snapshot.
fn request(machine: &dyn MachineHandle, name: &str) -> Result<TakenSnapshot, Error> {
    let StoredSnapshot { store, digest, stopped, took } = machine.request_snapshot(name)?;
    let image = Image::open(Source::open(&store)?, digest, &default_cache()?)?;
    Ok(TakenSnapshot { image, stopped: Timings::of_step("stopped", stopped), took })
}
