//! The memory image and the state of a machine that was never run.

use std::io::{self, Cursor};

use linux_loader::loader::{Elf, KernelLoader};
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::memory::{PAGE_SIZE, Run, runs_of};
use supermachine_formats::snapshot::{
    Architecture, HypervisorFamily, Machine, Snapshot, Stage, WorkingSet,
};
use supermachine_snapshots::pack::{Composition, MemoryChange};
use supermachine_vmm::arch::{MAX_MEMORY, MAX_VCPUS, MIN_MEMORY};
use supermachine_vmm::layout::ram_windows;
use supermachine_vmm::{boot_slots, reset_serial};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::error::BootError;
use super::{cpio, x86_64};

/// The version of the layout. Bump it with every change, so that cached bases are not reused.
pub(crate) const RECIPE: u16 = 4;

/// The inputs of a boot snapshot.
#[derive(Debug, Clone, Copy)]
pub struct BootInputs<'a> {
    /// The guest kernel, an uncompressed ELF file.
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
    let kernel = Elf::load(&memory, None, &mut Cursor::new(inputs.kernel), None)
        .map_err(|source| BootError::Kernel { source })?;
    let archive = cpio::archive(inputs.agent);
    let kernel_end = kernel.kernel_end.next_multiple_of(PAGE_SIZE);
    let written = x86_64::place(
        &memory,
        memory_size,
        inputs.vcpus,
        x86_64::Loaded { kernel_end, archive: &archive },
    )?;
    let mut used = written;
    used.push((x86_64::KERNEL_START, kernel_end - x86_64::KERNEL_START));
    let (runs, pages) = gather(&memory, used)?;
    let snapshot = Snapshot {
        architecture: Architecture::X86_64,
        hypervisor: HypervisorFamily::Any,
        machine: Machine { stage: Stage::Boot, parent: None, memory_size, vcpus: inputs.vcpus },
        workload: None,
        stop: None,
        image_command: None,
        after_restore: None,
        arch: x86_64::state(inputs.baseline, inputs.vcpus, kernel.kernel_load.0),
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

/// Collects the pages that are not zero from the ranges written. All of them are below the hole in
/// the address space, where addresses are offsets.
fn gather(
    memory: &GuestMemoryMmap<()>,
    mut used: Vec<(u64, u64)>,
) -> Result<(Vec<Run>, Vec<u8>), BootError> {
    used.sort_unstable();
    let (mut pages, mut own) = (Vec::new(), Vec::new());
    let mut page = [0; PAGE_SIZE as usize];
    let mut next = 0;
    for (start, size) in used {
        let end = (start + size).div_ceil(PAGE_SIZE);
        for number in (start / PAGE_SIZE).max(next)..end {
            memory
                .read_slice(&mut page, GuestAddress(number * PAGE_SIZE))
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
