//! Builds a machine from a snapshot.
//!
//! Order: create the VM, map memory and show it to the guest, restore devices, create and restore
//! vCPUs, restore interrupt controllers, set the clock. Then the caller sends what the guest must find, and runs it. The first
//! vCPU populates the recorded pages when it starts to run.

use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock};

use supermachine_formats::snapshot::{HypervisorFamily, Snapshot, Stage, WorkingSet};

use super::board::Board;
use super::lifecycle::Machine;
use super::origin::{MappedDisk, Mapping, Origin, PageLoss};
use super::slots::{Ends, HostShare, HostVolume, with_interface, with_shares, with_volumes};
use super::timings::Timings;
use super::vcpus::{VcpuSetup, Vcpus};
use crate::arch::{self, InterruptSink, State, layout};
use crate::backend::{self, Access, Vm};
use crate::devices::{DiskFile, FrameLink};
use crate::error::{GuestFailure, MachineError};
use crate::memory::Ram;

/// The hypervisor's number of the first disk's window. Windows of memory have lower numbers.
const FIRST_DISK_WINDOW: u32 = 8;

/// What a machine is restored from.
#[derive(Debug)]
pub struct Restore {
    /// The state.
    pub snapshot: Arc<Snapshot>,
    /// The memory and the disks.
    pub origin: Origin,
    /// The other end of the network interface; `None` without a network.
    pub network: Option<FrameLink>,
    /// The folders of the host, one for each that the snapshot's guest has.
    pub shares: Vec<HostShare>,
    /// The volumes, one for each that the snapshot's guest has.
    pub volumes: Vec<HostVolume>,
}

impl Restore {
    /// A machine without a network, folders or volumes.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, origin: Origin) -> Self {
        Self { snapshot, origin, network: None, shares: Vec::new(), volumes: Vec::new() }
    }
}

impl Machine {
    /// Restores a machine. It is paused, at the point where the snapshot was taken.
    ///
    /// # Errors
    /// [`HypervisorError::Unsupported`](crate::HypervisorError::Unsupported) on a platform without
    /// a backend. Otherwise, the snapshot does not fit this host or describes an impossible
    /// machine, or the host refuses.
    pub fn restore(parts: Restore, timings: &mut Timings) -> Result<Self, MachineError> {
        Self::check_host(&parts.snapshot)?;
        let vm = backend::create_vm()?;
        timings.step("create VM");
        Self::restore_on(vm, parts, timings)
    }

    /// Checks that a snapshot is for the architecture and the hypervisor of this host, without its
    /// memory and disks. Whether the processor fits is known only at the restore.
    ///
    /// # Errors
    /// [`MachineError::Architecture`] or [`MachineError::HypervisorFamily`] if it is for another, and
    /// [`HypervisorError::Unsupported`](crate::HypervisorError::Unsupported) on a platform without a
    /// backend.
    pub fn check_host(snapshot: &Snapshot) -> Result<(), MachineError> {
        let family = backend::family()?;
        arch_state(snapshot)?;
        let (found, host) = (snapshot.hypervisor, family);
        let is_boot = snapshot.machine.stage == Stage::Boot && found == HypervisorFamily::Any;
        if !is_boot && found != host {
            return Err(MachineError::HypervisorFamily { found, host });
        }
        Ok(())
    }

    pub(super) fn restore_on(
        vm: Arc<dyn Vm>,
        parts: Restore,
        timings: &mut Timings,
    ) -> Result<Self, MachineError> {
        let Restore { snapshot, origin, network, shares, volumes } = parts;
        if snapshot.slots.len() != usize::from(layout::SLOTS) {
            return Err(MachineError::Snapshot { what: "another number of slots than a machine" });
        }
        let snapshot = if network.is_some() { with_interface(snapshot)? } else { snapshot };
        let snapshot = with_volumes(with_shares(snapshot, &shares)?, &volumes)?;
        let mut state = arch_state(&snapshot)?.clone();
        vm.check(&state)?;
        let Mapping { ram, disks: mapped, missing } = Mapping::of(&snapshot, &origin)?;
        let ram = Arc::new(ram);
        map_memory(vm.as_ref(), &ram)?;
        map_disks(vm.as_ref(), &mapped)?;
        timings.step("map memory");
        // Before anything can touch the memory: a page that is touched before it is watched is
        // present from then on, and stays zeros.
        let loss = Arc::new(PageLoss::default());
        let (pager, memory_files, disks) = match origin {
            Origin::Files { memory, disks } => (None, Some(memory), disks),
            Origin::Chunks(chunks) => {
                let pager = missing.map(|missing| missing.watch(chunks, &loss)).transpose()?;
                (pager, None, Vec::new())
            }
        };
        let (memory, disks) = (Arc::clone(ram.memory()), disk_files(&snapshot, &disks));
        let ends = Ends { network: network.as_ref(), shares: &shares, volumes: &volumes };
        let interrupts = (vm.clone() as Arc<dyn InterruptSink>, &state);
        let board = Arc::new(Board::from_state(&snapshot, interrupts, memory, disks, ends)?);
        let streams = board
            .streams()
            .ok_or(MachineError::Snapshot { what: "no socket device in its slot" })?;
        timings.step("make devices");
        // Missing pages arrive in larger pieces than page by page.
        let working_set = match &pager {
            None => snapshot.working_set.clone(),
            Some(_) => WorkingSet::default(),
        };
        vm.complete(&mut state)?;
        let clock = arch::clock(&state);
        let setup = VcpuSetup {
            clock: clock.clone(),
            states: state.vcpus,
            working_set: (Arc::clone(&ram), working_set),
        };
        let on_failure = Arc::clone(&board);
        let on_failure = Box::new(move |_: &GuestFailure| on_failure.hang_up());
        let vcpus = Vcpus::start(&vm, &board, setup, on_failure)?;
        loss.arm(vcpus.stopper())?;
        vm.restore_interrupts(arch_state(&snapshot)?)?;
        vm.set_clock(&clock)?;
        timings.step("restore vCPUs");
        Ok(Self {
            vcpus,
            board,
            streams,
            vm,
            _pager: pager,
            ram,
            memory_files,
            pristine: OnceLock::new(),
            spare: Mutex::default(),
            origin: snapshot,
            turn: Mutex::default(),
            clock: Mutex::default(),
        })
    }
}

/// The state of a snapshot for this host's architecture.
pub(super) fn arch_state(snapshot: &Snapshot) -> Result<&State, MachineError> {
    let (found, host) = (snapshot.arch.architecture(), arch::host::ARCHITECTURE);
    arch::state_of(&snapshot.arch).ok_or(MachineError::Architecture { found, host })
}

fn map_memory(vm: &dyn Vm, ram: &Ram) -> Result<(), MachineError> {
    for (index, (window, region)) in (0..).zip(ram.windows()) {
        vm.map(index, window.guest_address, Arc::clone(region), Access::ReadWrite)?;
    }
    Ok(())
}

fn map_disks(vm: &dyn Vm, mapped: &[MappedDisk]) -> Result<(), MachineError> {
    for disk in mapped {
        let window = FIRST_DISK_WINDOW + u32::from(disk.slot);
        vm.map(window, disk.address, Arc::clone(&disk.region), Access::ReadOnly)?;
    }
    Ok(())
}

fn disk_files(snapshot: &Snapshot, files: &[Arc<File>]) -> Vec<DiskFile> {
    let disks = (0..).zip(&snapshot.disks);
    disks
        .map(|(index, disk)| DiskFile { file: files.get::<usize>(index).cloned(), size: disk.size })
        .collect()
}
