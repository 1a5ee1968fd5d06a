//! What a machine's memory and disks begin as, and how that is mapped.
//!
//! Either files, which are mapped copy-on-write and shared with other machines, or chunks,
//! which a [`Pager`] puts in place when they are touched. Does not know the hypervisor.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::device::Slot as SlotState;
use vm_memory::MmapRegion;

use super::layout::{PMEM_START, PMEM_STRIDE};
use super::memory::{MemoryFiles, Ram, map_disk, reserve_disk};
use super::pager::{Chunks, Pager, Stretch};
use super::uffd::Userfault;
use super::{GuestFailure, MachineError};

/// What a machine's memory and disks begin as.
#[derive(Debug)]
pub enum Origin {
    /// Files, ready to be mapped.
    Files {
        /// The memory.
        memory: MemoryFiles,
        /// The disks, as the snapshot lists them.
        disks: Vec<Arc<File>>,
    },
    /// Chunks that are put in place when they are touched. Disks must be mapped ones.
    Chunks(Box<dyn Chunks>),
}

/// Whether this process may be told of pages that are touched and not there. It is found out
/// once: neither the system nor the process's rights change.
#[must_use]
pub fn can_page_on_demand() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| Userfault::open().is_ok())
}

/// A disk that stands in guest memory.
pub(super) struct MappedDisk {
    pub(super) slot: u8,
    pub(super) address: u64,
    pub(super) region: Arc<MmapRegion>,
}

/// Memory and disks, mapped.
pub(super) struct Mapping {
    pub(super) ram: Ram,
    pub(super) disks: Vec<MappedDisk>,
    /// What is not there yet.
    pub(super) waiting: Option<Waiting>,
}

impl Mapping {
    pub(super) fn of(snapshot: &Snapshot, origin: &Origin) -> Result<Self, MachineError> {
        let memory_error = |source| MachineError::Memory { operation: "mapped", source };
        let size = snapshot.machine.memory_size;
        let (ram, userfault) = match origin {
            Origin::Files { memory, .. } => (Ram::map(memory, size).map_err(memory_error)?, None),
            Origin::Chunks(_) => {
                let userfault = Userfault::open().map_err(memory_error)?;
                (Ram::reserve(size).map_err(memory_error)?, Some(userfault))
            }
        };
        let mut disks = Vec::new();
        let mut stretches: Vec<Stretch> = ram
            .windows()
            .iter()
            .map(|(window, region)| Stretch {
                space: 0,
                offset: window.file_offset,
                region: Arc::clone(region),
            })
            .collect();
        for (slot, state) in (0_u8..).zip(&snapshot.slots) {
            let SlotState::Pmem(_, pmem) = state else { continue };
            let index = usize::from(pmem.disk);
            let told = snapshot.disks.get(index).map(|disk| disk.size);
            let address = PMEM_START + u64::from(slot) * PMEM_STRIDE;
            if pmem.address != address || told != Some(pmem.size) || pmem.size > PMEM_STRIDE {
                return Err(MachineError::Snapshot { what: "a disk outside its window" });
            }
            let region = map_one(origin, index, pmem.size)?;
            stretches.push(Stretch { space: 1 + index, offset: 0, region: Arc::clone(&region) });
            disks.push(MappedDisk { slot, address, region });
        }
        let waiting = userfault.map(|userfault| Waiting { userfault, stretches });
        Ok(Self { ram, disks, waiting })
    }
}

fn map_one(origin: &Origin, index: usize, size: u64) -> Result<Arc<MmapRegion>, MachineError> {
    let disk_error = |source| MachineError::Disk { index, source };
    match origin {
        Origin::Files { disks, .. } => {
            let file = disks.get(index).ok_or(MachineError::Snapshot { what: "a missing disk" })?;
            map_disk(file, size).map_err(disk_error)
        }
        Origin::Chunks(_) => reserve_disk(size).map_err(disk_error),
    }
}

/// Memory that is not there yet.
pub(super) struct Waiting {
    userfault: Userfault,
    stretches: Vec<Stretch>,
}

impl Waiting {
    /// Begins to put it in place as it is touched.
    pub(super) fn watch(
        self,
        chunks: Box<dyn Chunks>,
        loss: &Arc<Loss>,
    ) -> Result<Pager, MachineError> {
        let loss = Arc::clone(loss);
        let on_loss = Box::new(move |error: &io::Error| loss.report(error));
        Pager::start(self.userfault, self.stretches, chunks, on_loss)
            .map_err(|source| MachineError::Memory { operation: "watched", source })
    }
}

/// Ends a guest that must not go on.
pub(super) type Ender = Box<dyn Fn(GuestFailure) + Send>;

/// What becomes of a machine whose pages cannot be had, whether its vCPUs are there yet or not.
#[derive(Default)]
pub(super) struct Loss(Mutex<LossState>);

#[derive(Default)]
struct LossState {
    lost: Option<String>,
    ender: Option<Ender>,
}

impl fmt::Debug for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loss").finish_non_exhaustive()
    }
}

impl Loss {
    fn report(&self, error: &io::Error) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let what = error.to_string();
        if let Some(end) = &state.ender {
            end(GuestFailure::PageLost { what: what.clone() });
        }
        state.lost = Some(what);
    }

    /// From now on `ender` is told.
    ///
    /// # Errors
    /// A page was lost before.
    pub(super) fn arm(&self, ender: Ender) -> Result<(), MachineError> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(what) = state.lost.take() {
            let source = io::Error::other(what);
            return Err(MachineError::Memory { operation: "put in place", source });
        }
        state.ender = Some(ender);
        Ok(())
    }
}
