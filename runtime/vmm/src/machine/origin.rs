//! The original content of a machine's memory and disks, and how it is mapped.
//!
//! Either files, which are mapped copy-on-write and shared with other machines, or chunks, which a
//! [`Pager`] fills in when they are touched. Does not know the hypervisor.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::device::Slot as SlotState;
use vm_memory::MmapRegion;

use crate::arch::layout::{PMEM_START, PMEM_STRIDE, ram_windows};
use crate::error::{GuestFailure, MachineError};
use crate::memory::{Chunks, MappedRange, MemoryFiles, Pager, Ram, map_disk, reserve_disk};
use crate::os::Userfault;

/// The original content of a machine's memory and disks.
#[derive(Debug)]
pub enum Origin {
    /// Files that can be mapped.
    Files {
        /// The memory.
        memory: MemoryFiles,
        /// The disks, as the snapshot lists them.
        disks: Vec<Arc<File>>,
    },
    /// Chunks that are filled in when they are touched. Every disk must be a mapped one.
    Chunks(Box<dyn Chunks>),
}

/// Whether this process may serve its own page faults, which [`Origin::Chunks`] needs. Checked
/// once: neither the system nor the process's rights change.
#[must_use]
pub fn can_page_on_demand() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| Userfault::open().is_ok())
}

/// A disk that is mapped into guest memory.
pub(super) struct MappedDisk {
    pub(super) slot: u8,
    pub(super) address: u64,
    pub(super) region: Arc<MmapRegion>,
}

/// Memory and disks, mapped.
pub(super) struct Mapping {
    pub(super) ram: Ram,
    pub(super) disks: Vec<MappedDisk>,
    /// The pages that are not present yet.
    pub(super) missing: Option<Missing>,
}

impl Mapping {
    pub(super) fn of(snapshot: &Snapshot, origin: &Origin) -> Result<Self, MachineError> {
        let memory_error = |source| MachineError::Memory { operation: "mapped", source };
        let windows = ram_windows(snapshot.machine.memory_size);
        let (ram, userfault) = match origin {
            Origin::Files { memory, .. } => {
                (Ram::map(memory, windows).map_err(memory_error)?, None)
            }
            Origin::Chunks(_) => {
                let userfault = Userfault::open().map_err(memory_error)?;
                (Ram::reserve(windows).map_err(memory_error)?, Some(userfault))
            }
        };
        let mut disks = Vec::new();
        let mut ranges: Vec<MappedRange> = ram
            .windows()
            .iter()
            .map(|(window, region)| MappedRange {
                space: 0,
                offset: window.file_offset,
                region: Arc::clone(region),
            })
            .collect();
        for (slot, state) in (0_u8..).zip(&snapshot.slots) {
            let SlotState::Pmem(_, pmem) = state else { continue };
            let index = usize::from(pmem.disk);
            let expected = snapshot.disks.get(index).map(|disk| disk.size);
            let address = PMEM_START + u64::from(slot) * PMEM_STRIDE;
            if pmem.address != address || expected != Some(pmem.size) || pmem.size > PMEM_STRIDE {
                return Err(MachineError::Snapshot { what: "a disk outside its window" });
            }
            let region = map_one(origin, index, pmem.size)?;
            ranges.push(MappedRange { space: 1 + index, offset: 0, region: Arc::clone(&region) });
            disks.push(MappedDisk { slot, address, region });
        }
        let missing = userfault.map(|userfault| Missing { userfault, ranges });
        Ok(Self { ram, disks, missing })
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

/// Mapped ranges whose pages are not present yet.
pub(super) struct Missing {
    userfault: Userfault,
    ranges: Vec<MappedRange>,
}

impl Missing {
    /// Starts to fill pages in as they are touched.
    pub(super) fn watch(
        self,
        chunks: Box<dyn Chunks>,
        loss: &Arc<PageLoss>,
    ) -> Result<Pager, MachineError> {
        let loss = Arc::clone(loss);
        let on_loss = Box::new(move |error: &io::Error| loss.report(error));
        Pager::start(self.userfault, self.ranges, chunks, on_loss)
            .map_err(|source| MachineError::Memory { operation: "watched", source })
    }
}

/// Stops a guest for good.
pub(super) type Stopper = Box<dyn Fn(GuestFailure) + Send>;

/// Stops a machine whose pages cannot be read, whether its vCPUs exist yet or not.
#[derive(Default)]
pub(super) struct PageLoss(Mutex<LossState>);

#[derive(Default)]
struct LossState {
    lost: Option<String>,
    stopper: Option<Stopper>,
}

impl fmt::Debug for PageLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageLoss").finish_non_exhaustive()
    }
}

impl PageLoss {
    fn report(&self, error: &io::Error) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let what = error.to_string();
        if let Some(stop) = &state.stopper {
            stop(GuestFailure::PageLost { what: what.clone() });
        }
        state.lost = Some(what);
    }

    /// Calls `stopper` for every loss from now on.
    ///
    /// # Errors
    /// A page was lost before.
    pub(super) fn arm(&self, stopper: Stopper) -> Result<(), MachineError> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(what) = state.lost.take() {
            let source = io::Error::other(what);
            return Err(MachineError::Memory { operation: "filled in", source });
        }
        state.stopper = Some(stopper);
        Ok(())
    }
}
