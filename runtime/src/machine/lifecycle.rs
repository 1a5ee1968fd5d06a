//! Restore and capture: pause → quiesce devices → capture, and the reverse.
//!
//! Order of a restore: make the VM, map memory and show it, make devices, make and restore
//! vCPUs, set the clock; then the caller injects what the guest is to find, and runs it. The
//! recorded pages are put in place when it begins to run. Order of a capture: stop the vCPUs, settle the devices, then read everything.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use supermachine_formats::snapshot::device::{Serial, Slot as SlotState};
use supermachine_formats::snapshot::memory::{Memory, PAGE_SIZE, Run, runs_of};
use supermachine_formats::snapshot::x86_64::{Clock, IOAPIC_PINS, Ioapic as IoapicState};
use supermachine_formats::snapshot::{Architecture, HypervisorFamily, Snapshot, Stage, WorkingSet};
use supermachine_formats::{Hasher, wire};

use super::bus::Bus;
use super::devices::ioapic::Ioapic;
use super::devices::serial::{Console, SerialPort};
use super::devices::virtio::{DiskFile, Parts, Slot, Vsock};
use super::hypervisor::{self, Access, Vm};
use super::layout::{self, PMEM_START, PMEM_STRIDE, SERIAL_LINE, VSOCK_SLOT};
use super::memory::{Ram, map_disk};
use super::vcpu::{Plan, Vcpus};
use super::{GuestFailure, MachineError, baseline};
use crate::timings::Timings;

/// Memory windows come first in the hypervisor's numbering, mapped disks from here.
const FIRST_DISK_WINDOW: u32 = 8;

/// What a machine is made from.
#[derive(Debug)]
pub struct Restore {
    /// The state.
    pub snapshot: Snapshot,
    /// The memory file: all of guest RAM, as the snapshot left it.
    pub memory: Arc<File>,
    /// The disks, as the snapshot lists them.
    pub disks: Vec<Arc<File>>,
}

/// A machine's state, read while it stood still.
#[derive(Debug)]
pub struct Captured {
    /// The state. Its stage, parent and workload are those of the snapshot that the machine
    /// began from; who captures sets them.
    pub snapshot: Snapshot,
    /// Pages that were written since the start, or are in place unwritten.
    pub touched: WorkingSet,
}

/// A running or paused guest.
#[derive(Debug)]
pub struct Machine {
    // Dropped in this order: first the guest stops, then what it used goes away.
    vcpus: Vcpus,
    bus: Arc<Bus>,
    vsock: Vsock,
    vm: Arc<dyn Vm>,
    ram: Arc<Ram>,
    memory_file: Arc<File>,
    console: Console,
    origin: Snapshot,
}

impl Machine {
    /// Makes a machine that stands where the snapshot was taken.
    ///
    /// # Errors
    /// The snapshot does not fit this host or is not a possible machine, or the host refuses.
    pub fn restore(parts: Restore, timings: &mut Timings) -> Result<Self, MachineError> {
        check_host(&parts.snapshot)?;
        let vm = hypervisor::create_vm()?;
        timings.step("create VM");
        Self::restore_on(vm, parts, timings)
    }

    pub(super) fn restore_on(
        vm: Arc<dyn Vm>,
        parts: Restore,
        timings: &mut Timings,
    ) -> Result<Self, MachineError> {
        let Restore { mut snapshot, memory: memory_file, disks } = parts;
        if snapshot.slots.len() != usize::from(layout::SLOTS) {
            return Err(MachineError::Snapshot { what: "another number of slots than a machine" });
        }
        baseline::check(vm.as_ref(), &snapshot)?;
        let ram = Ram::map(&memory_file, snapshot.machine.memory_size)
            .map(Arc::new)
            .map_err(|source| MachineError::Memory { operation: "mapped", source })?;
        show_memory(vm.as_ref(), &ram)?;
        show_disks(vm.as_ref(), &snapshot, &disks)?;
        timings.step("map memory");
        let console = Console::default();
        let bus = Arc::new(make_devices(&vm, &ram, &snapshot, &disks, &console)?);
        let vsock = bus
            .slots
            .get(usize::from(VSOCK_SLOT))
            .and_then(Slot::vsock)
            .cloned()
            .ok_or(MachineError::Snapshot { what: "no socket device in its slot" })?;
        timings.step("make devices");
        baseline::complete(vm.as_ref(), snapshot.processor.baseline, &mut snapshot.vcpus)?;
        let plan = Plan {
            states: std::mem::take(&mut snapshot.vcpus),
            tsc_khz: snapshot.clock.tsc_khz,
            working_set: (Arc::clone(&ram), std::mem::take(&mut snapshot.working_set)),
        };
        let streams = vsock.clone();
        let on_failure = Box::new(move |_: &GuestFailure| streams.hang_up());
        let vcpus = Vcpus::start(&vm, &bus, plan, on_failure)?;
        vm.set_clock_ns(snapshot.clock.monotonic_ns)?;
        timings.step("restore vCPUs");
        Ok(Self { vcpus, bus, vsock, vm, ram, memory_file, console, origin: snapshot })
    }

    /// Lets the guest run.
    pub fn run(&self) {
        self.vcpus.run();
    }

    /// Puts a message for the agent in place on the control stream of a restored machine.
    ///
    /// # Errors
    /// The snapshot was taken before the agent had opened the stream.
    pub fn send_control(&self, message: &wire::Control) -> Result<(), MachineError> {
        let frame = wire::Message::to_frame(message);
        self.vsock.send_control(&frame).map_err(|source| MachineError::Stream { source })
    }

    /// The host's end of the agent's control stream. It can be taken once; on a machine that
    /// boots, before it runs.
    ///
    /// # Errors
    /// It was taken before.
    pub fn control(&self) -> Result<UnixStream, MachineError> {
        self.vsock.control().map_err(|source| MachineError::Stream { source })
    }

    /// Opens a stream to a port of the guest, with the first bytes already on their way.
    ///
    /// # Errors
    /// Too many streams are open, or the host has no descriptors left.
    pub fn connect(&self, port: u32, first: &[u8]) -> Result<UnixStream, MachineError> {
        let stream = self.vsock.connect(port, first);
        if self.failure().is_some() {
            // The guest ended before: nobody else would end this stream.
            self.vsock.hang_up();
        }
        stream.map_err(|source| MachineError::Stream { source })
    }

    /// The end of what the guest's kernel wrote to its console.
    #[must_use]
    pub fn console(&self) -> Vec<u8> {
        self.console.tail()
    }

    /// How the guest ended by itself, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<GuestFailure> {
        self.vcpus.failure()
    }

    /// The state that the machine began from, without its vCPUs.
    #[must_use]
    pub fn origin(&self) -> &Snapshot {
        &self.origin
    }

    /// Stops the guest and reads its state. Pages that differ from those the machine began
    /// with are written to `pages`, one after the other. The machine stays paused; all streams
    /// but the control stream are closed.
    ///
    /// # Errors
    /// Data for the guest is still under way, or the state cannot be read or written.
    pub fn capture(&self, pages: &mut dyn Write) -> Result<Captured, MachineError> {
        self.vcpus.pause();
        self.vsock.quiesce().map_err(|_| MachineError::Busy)?;
        let saved = self.vcpus.save()?;
        let tsc_khz = saved.first().map_or(0, |first| first.tsc_khz);
        let clock =
            Clock { monotonic_ns: self.vm.clock_ns()?, realtime_ns: realtime_ns(), tsc_khz };
        let memory_error = |source| MachineError::Memory { operation: "saved", source };
        let touched = WorkingSet {
            written: runs_of(self.ram.written().map_err(memory_error)?),
            read: self.ram.read_only().map_err(memory_error)?,
        };
        let memory = self.save_memory(&touched.written, pages).map_err(memory_error)?;
        let vcpus: Vec<_> = saved.into_iter().map(|vcpu| vcpu.state).collect();
        let snapshot = Snapshot {
            architecture: self.origin.architecture,
            hypervisor: hypervisor::family(),
            machine: self.origin.machine.clone(),
            workload: self.origin.workload.clone(),
            processor: baseline::note(self.vm.as_ref(), &self.origin.processor, &vcpus),
            vcpus,
            ioapic: self.bus.ioapic.state(),
            clock,
            slots: self.bus.slots.iter().map(Slot::state).collect(),
            serial: self.bus.serial.state(),
            disks: self.origin.disks.clone(),
            memory,
            working_set: WorkingSet::default(),
        };
        Ok(Captured { snapshot, touched })
    }

    /// Writes out those of the written pages that differ from the memory file.
    fn save_memory(&self, written: &[Run], pages: &mut dyn Write) -> io::Result<Memory> {
        const SIZE: usize = PAGE_SIZE as usize;
        let (mut own, mut zeroed) = (Vec::new(), Vec::new());
        let mut hasher = Hasher::new();
        let mut before = [0; SIZE];
        for page in written.iter().flat_map(|run| run.first..run.end()) {
            let now = self.ram.page(page).ok_or(io::ErrorKind::InvalidInput)?;
            self.memory_file.read_exact_at(&mut before, page * PAGE_SIZE)?;
            if now == before {
                continue;
            }
            if now == [0; SIZE] {
                zeroed.push(page);
            } else {
                hasher.update(&now);
                pages.write_all(&now)?;
                own.push(page);
            }
        }
        pages.flush()?;
        Ok(Memory { blob: hasher.finish(), own: runs_of(own), zeroed: runs_of(zeroed) })
    }
}

/// The interrupt controller of a machine that was never run.
#[must_use]
pub fn reset_ioapic() -> IoapicState {
    IoapicState { id: 0, selected: 0, pins: [1 << 16; IOAPIC_PINS] }
}

/// The serial port of a machine that was never run.
#[must_use]
pub fn reset_serial() -> Serial {
    SerialPort::reset_state()
}

fn check_host(snapshot: &Snapshot) -> Result<(), MachineError> {
    let host = Architecture::X86_64;
    if snapshot.architecture != host {
        return Err(MachineError::Architecture { found: snapshot.architecture, host });
    }
    let (found, host) = (snapshot.hypervisor, hypervisor::family());
    let is_boot = snapshot.machine.stage == Stage::Boot && found == HypervisorFamily::Any;
    if !is_boot && found != host {
        return Err(MachineError::HypervisorFamily { found, host });
    }
    Ok(())
}

fn show_memory(vm: &dyn Vm, ram: &Ram) -> Result<(), MachineError> {
    for (index, (window, region)) in (0..).zip(ram.windows()) {
        vm.map(index, window.guest_address, Arc::clone(region), Access::ReadWrite)?;
    }
    Ok(())
}

/// Shows the guest the disks that stand in memory slots.
fn show_disks(vm: &dyn Vm, snapshot: &Snapshot, disks: &[Arc<File>]) -> Result<(), MachineError> {
    for (slot, state) in (0_u8..).zip(&snapshot.slots) {
        let SlotState::Pmem(_, pmem) = state else { continue };
        let index = usize::from(pmem.disk);
        let file = disks.get(index).ok_or(MachineError::Snapshot { what: "a missing disk" })?;
        let told = snapshot.disks.get(index).map(|disk| disk.size);
        let address = PMEM_START + u64::from(slot) * PMEM_STRIDE;
        if pmem.address != address || told != Some(pmem.size) || pmem.size > PMEM_STRIDE {
            return Err(MachineError::Snapshot { what: "a disk outside its window" });
        }
        let disk_error = |source| MachineError::Disk { index, source };
        let region = map_disk(file, pmem.size).map_err(disk_error)?;
        let window = FIRST_DISK_WINDOW + u32::from(slot);
        vm.map(window, address, region, Access::ReadOnly)?;
    }
    Ok(())
}

fn make_devices(
    vm: &Arc<dyn Vm>,
    ram: &Ram,
    snapshot: &Snapshot,
    disks: &[Arc<File>],
    console: &Console,
) -> Result<Bus, MachineError> {
    let ioapic = Ioapic::from_state(Arc::clone(vm), &snapshot.ioapic);
    let disks = snapshot
        .disks
        .iter()
        .zip(disks)
        .enumerate()
        .map(|(index, (disk, file))| {
            let file = file.try_clone().map_err(|source| MachineError::Disk { index, source })?;
            Ok(DiskFile { file, size: disk.size })
        })
        .collect::<Result<Vec<DiskFile>, MachineError>>()?;
    let mut slots = Vec::with_capacity(snapshot.slots.len());
    for (index, state) in (0_u8..).zip(&snapshot.slots) {
        let parts = Parts {
            memory: Arc::clone(ram.memory()),
            line: ioapic.pin(layout::slot_line(index)),
            disks: &disks,
        };
        let slot = Slot::from_state(state, parts)
            .map_err(|source| MachineError::Device { slot: usize::from(index), source })?;
        slots.push(slot);
    }
    let line = ioapic.pin(SERIAL_LINE);
    let serial = SerialPort::from_state(&snapshot.serial, line, console.clone())
        .ok_or(MachineError::Snapshot { what: "more serial input than the port holds" })?;
    Ok(Bus { slots, ioapic, serial })
}

fn realtime_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
