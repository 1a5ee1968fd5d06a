//! The memory image and the state of a machine that was never run.

use std::io;

use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::memory::{PAGE_SIZE, Run, runs_of};
use supermachine_formats::snapshot::{HypervisorFamily, Machine, Snapshot, Stage, WorkingSet};
use supermachine_snapshots::pack::{Composition, MemoryChange};
use supermachine_vmm::arch::{MAX_MEMORY, MAX_VCPUS, MIN_MEMORY};
use supermachine_vmm::layout::ram_windows;
use supermachine_vmm::{boot_slots, reset_serial};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::error::BootError;
use super::{cpio, native};

/// The version of the layout. Bump it with every change, so that cached bases are not reused.
pub(crate) const RECIPE: u16 = 4;

/// The inputs of a boot snapshot.
#[derive(Debug, Clone, Copy)]
pub struct BootInputs<'a> {
    /// The guest kernel: an uncompressed ELF file, on arm64 an `Image`.
    pub kernel: &'a [u8],
    /// The agent's program.
    pub agent: &'a [u8],
    /// Guest memory, in MiB.
    pub memory_mib: u64,
    /// Virtual processors.
    pub vcpus: u16,
    /// The processor features that the guest may use.
    pub baseline: Baseline,
}

/// A boot snapshot and its memory.
#[derive(Debug)]
pub struct BootSnapshot {
    /// The state.
    pub snapshot: Snapshot,
    /// The pages that are not zero.
    pub runs: Vec<Run>,
    /// The content of those pages, concatenated.
    pub pages: Vec<u8>,
}

impl BootSnapshot {
    /// Its composition for the store, compressed at `level`.
    pub(crate) fn composition(&self, level: i32) -> Composition<'_> {
        let numbers = self.runs.iter().flat_map(|run| run.first..run.end());
        let pages = numbers.zip(self.pages.chunks_exact(PAGE_SIZE as usize)).collect();
        Composition {
            snapshot: &self.snapshot,
            parent: None,
            memory: MemoryChange { origin: None, pages },
            also: Vec::new(),
            disks: None,
            first_use: Vec::new(),
            level,
        }
    }
}

/// Lays out a boot snapshot.
///
/// # Errors
/// The machine's size is out of range, or kernel and agent do not fit into it.
pub fn lay_out(inputs: &BootInputs<'_>) -> Result<BootSnapshot, BootError> {
    let memory_size = check_size(inputs.memory_mib, inputs.vcpus)?;
    let ranges: Vec<(GuestAddress, usize)> = ram_windows(memory_size)
        .iter()
        .map(|window| (GuestAddress(window.guest_address), window.size as usize))
        .collect();
    let memory = GuestMemoryMmap::<()>::from_ranges(&ranges)
        .map_err(|error| BootError::Image { source: io::Error::other(error) })?;
    let kernel = native::load(&memory, inputs.kernel)?;
    let archive = cpio::archive(inputs.agent);
    let placed = native::place(&memory, (memory_size, inputs.vcpus), &kernel, &archive)?;
    let mut used = placed.written;
    used.push((kernel.start, kernel.end.next_multiple_of(PAGE_SIZE) - kernel.start));
    let ram_start = ranges.first().map_or(0, |(start, _)| start.0);
    let (runs, pages) = gather(&memory, ram_start, used)?;
    let snapshot = Snapshot {
        hypervisor: HypervisorFamily::Any,
        machine: Machine { stage: Stage::Boot, parent: None, memory_size, vcpus: inputs.vcpus },
        workload: None,
        stop: None,
        image_command: None,
        after_restore: None,
        arch: native::state(inputs.baseline, inputs.vcpus, placed.entry),
        slots: boot_slots(),
        serial: reset_serial(),
        disks: Vec::new(),
        working_set: WorkingSet::default(),
    };
    Ok(BootSnapshot { snapshot, runs, pages })
}

/// Checks a machine's size. Returns its memory in bytes.
pub(crate) fn check_size(memory_mib: u64, vcpus: u16) -> Result<u64, BootError> {
    let (least, most) = (MIN_MEMORY >> 20, MAX_MEMORY >> 20);
    if !(least..=most).contains(&memory_mib) {
        return Err(BootError::Size { what: "memory in MiB", least, most, found: memory_mib });
    }
    if !(1..=MAX_VCPUS).contains(&vcpus) {
        let (most, found) = (MAX_VCPUS.into(), vcpus.into());
        return Err(BootError::Size { what: "number of vCPUs", least: 1, most, found });
    }
    Ok(memory_mib << 20)
}

/// Collects the pages that are not zero from the ranges written. All of them are below a hole in
/// the address space, where addresses are offsets from the start of RAM.
fn gather(
    memory: &GuestMemoryMmap<()>,
    ram_start: u64,
    mut used: Vec<(u64, u64)>,
) -> Result<(Vec<Run>, Vec<u8>), BootError> {
    used.sort_unstable();
    let (mut pages, mut own) = (Vec::new(), Vec::new());
    let mut page = [0; PAGE_SIZE as usize];
    let mut next = 0;
    for (start, size) in used {
        let start = start - ram_start;
        let end = (start + size).div_ceil(PAGE_SIZE);
        for number in (start / PAGE_SIZE).max(next)..end {
            memory
                .read_slice(&mut page, GuestAddress(ram_start + number * PAGE_SIZE))
                .map_err(|source| BootError::Memory { what: "the image", source })?;
            if page.iter().any(|byte| *byte != 0) {
                pages.extend_from_slice(&page);
                own.push(number);
            }
        }
        next = end.max(next);
    }
    Ok((runs_of(own), pages))
}
