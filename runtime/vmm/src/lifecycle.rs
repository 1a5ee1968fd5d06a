//! Restore, capture and reset: pause → freeze devices → capture, and the reverse.
//!
//! Order of a restore: make the VM, map memory and show it, make devices, make and restore
//! vCPUs, set the clock; then the caller injects what the guest is to find, and runs it. The
//! recorded pages are put in place when it begins to run. Order of a capture: make room for the
//! pages, stop the vCPUs, freeze the devices, read everything, copy the pages. Whatever can wait
//! is done before the stop or after. Order of a reset: stop the vCPUs, hold the socket device, put
//! devices, vCPUs and memory back; then the caller goes on as after a restore.
//!
//! Locks: `turn` is held by whoever commands the vCPUs, so that one capture or reset at a time is made
//! and nobody runs the guest meanwhile. It comes before all others.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use supermachine_formats::snapshot::arch::ArchState;
use supermachine_formats::snapshot::arch::x86_64::{Clock, IOAPIC_PINS, Ioapic as IoapicState};
use supermachine_formats::snapshot::device::Serial;
use supermachine_formats::snapshot::{Architecture, HypervisorFamily, Snapshot, Stage, WorkingSet};
use supermachine_formats::wire;

use super::bus::Bus;
use super::devices::ioapic::Ioapic;
use super::devices::serial::{Console, SerialPort};
use super::devices::virtio::{DiskFile, Parts, Slot, Vsock};
use super::dirty::{self, DirtyPages};
use super::hypervisor::{self, Access, Vm};
use super::layout::{self, SERIAL_LINE, VSOCK_SLOT};
use super::memory::{MemoryFiles, Ram};
use super::origin::{Loss, MappedDisk, Mapping, Origin};
use super::pager::Pager;
use super::reset::{self, Spare};
use super::sys::{PageMap, Populate};
use super::vcpu::{Plan, Saved, Vcpus};
use super::witness::Witness;
use super::{GuestFailure, MachineError, baseline};
use crate::timings::Timings;

const TOO_MUCH_SERIAL_INPUT: MachineError =
    MachineError::Snapshot { what: "more serial input than the port holds" };
/// Memory windows come first in the hypervisor's numbering, mapped disks from here.
const FIRST_DISK_WINDOW: u32 = 8;
/// How often a running machine is stopped to be captured, if streams are busy each time.
const CAPTURE_ATTEMPTS: u32 = 20;
/// How long it runs between two attempts.
const CAPTURE_INTERVAL: Duration = Duration::from_millis(5);

/// What a machine is made from.
#[derive(Debug)]
pub struct Restore {
    /// The state.
    pub snapshot: Arc<Snapshot>,
    /// The memory and the disks.
    pub origin: Origin,
}

/// A machine's state, read while it stood still.
#[derive(Debug)]
pub struct Captured {
    /// The state. Its stage, parent, workload and stop are those of the snapshot that the machine
    /// began from; who captures sets them.
    pub snapshot: Snapshot,
    /// Every page that was written since the start.
    pub dirty: DirtyPages,
    /// How long the guest was stopped for it, step by step. If it stays stopped, until now.
    pub stopped: Timings,
}

/// A running or paused guest.
#[derive(Debug)]
pub struct Machine {
    // Dropped in this order: first the guest stops, then what it used goes away.
    vcpus: Vcpus,
    bus: Arc<Bus>,
    vsock: Vsock,
    vm: Arc<dyn Vm>,
    /// Ends after the guest, which waits for it, and before the memory that it fills.
    _pager: Option<Pager>,
    ram: Arc<Ram>,
    /// The files that the memory began as; none when it came in chunks.
    memory_files: Option<MemoryFiles>,
    /// The memory as it began, once it was reset.
    pristine: OnceLock<Ram>,
    /// Pages that stay in place when the memory is put back.
    spare: Mutex<Spare>,
    disks: Vec<DiskFile>,
    console: Console,
    origin: Arc<Snapshot>,
    /// Held by who commands the vCPUs.
    turn: Mutex<()>,
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
        let Restore { snapshot, origin } = parts;
        if snapshot.slots.len() != usize::from(layout::SLOTS) {
            return Err(MachineError::Snapshot { what: "another number of slots than a machine" });
        }
        baseline::check(vm.as_ref(), &snapshot)?;
        let Mapping { ram, disks: mapped, waiting } = Mapping::of(&snapshot, &origin)?;
        let ram = Arc::new(ram);
        show_memory(vm.as_ref(), &ram)?;
        show_disks(vm.as_ref(), &mapped)?;
        timings.step("map memory");
        // Before anything can touch the memory: a page that is touched before it is watched
        // is there, and stays the zeros that it was.
        let loss = Arc::new(Loss::default());
        let (pager, memory_files, disks) = match origin {
            Origin::Files { memory, disks } => (None, Some(memory), disks),
            Origin::Chunks(chunks) => {
                let pager = waiting.map(|waiting| waiting.watch(chunks, &loss)).transpose()?;
                (pager, None, Vec::new())
            }
        };
        let console = Console::default();
        let disks = disk_files(&snapshot, &disks);
        let bus = Arc::new(make_devices(&vm, &ram, &snapshot, &disks, &console)?);
        let vsock = bus
            .slots
            .get(usize::from(VSOCK_SLOT))
            .and_then(Slot::vsock)
            .cloned()
            .ok_or(MachineError::Snapshot { what: "no socket device in its slot" })?;
        timings.step("make devices");
        // What is not there yet comes in larger pieces than page by page.
        let working_set = match &pager {
            None => snapshot.working_set.clone(),
            Some(_) => WorkingSet::default(),
        };
        let mut states = snapshot.arch.vcpus.clone();
        baseline::complete(vm.as_ref(), snapshot.arch.processor.baseline, &mut states)?;
        let plan = Plan {
            states,
            tsc_khz: snapshot.arch.clock.tsc_khz,
            working_set: (Arc::clone(&ram), working_set),
        };
        let streams = vsock.clone();
        let on_failure = Box::new(move |_: &GuestFailure| streams.hang_up());
        let vcpus = Vcpus::start(&vm, &bus, plan, on_failure)?;
        loss.arm(vcpus.ender())?;
        vm.set_clock_ns(snapshot.arch.clock.monotonic_ns)?;
        timings.step("restore vCPUs");
        Ok(Self {
            vcpus,
            bus,
            vsock,
            vm,
            _pager: pager,
            ram,
            memory_files,
            pristine: OnceLock::new(),
            spare: Mutex::default(),
            disks,
            console,
            origin: snapshot,
            turn: Mutex::default(),
        })
    }

    /// Lets the guest run. While it is captured, this waits.
    pub fn run(&self) {
        let _turn = self.turn();
        self.vcpus.run();
    }

    /// Stops the guest until [`Machine::resume`]: on return no vCPU runs, and none will. While it is
    /// captured, this waits. A guest that stands still already is left so.
    ///
    /// # Errors
    /// [`MachineError::Ended`] if the guest has ended.
    pub fn pause(&self) -> Result<(), MachineError> {
        let _turn = self.turn();
        self.vcpus.pause();
        self.failure().map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Lets a guest go on that was paused; the first that it finds is the time. One that runs is
    /// left so. While it is captured, this waits.
    ///
    /// # Errors
    /// [`MachineError::Ended`] if the guest has ended, or its agent has closed the control stream.
    pub fn resume(&self) -> Result<(), MachineError> {
        let _turn = self.turn();
        if let Some(failure) = self.failure() {
            return Err(failure.into());
        }
        if !self.vcpus.is_to_run() {
            self.send_control(&wire::Control::Clock { realtime_ns: realtime_ns() })?;
            self.vcpus.run_again();
        }
        Ok(())
    }

    /// Whether [`Machine::reset`] can be used: pages that came when they were touched cannot be
    /// had a second time.
    #[must_use]
    pub fn can_reset(&self) -> bool {
        self.memory_files.is_some()
    }

    /// Puts the machine back to where its snapshot was taken, in place of making another one.
    /// It stands still then, as after [`Machine::restore`]. All streams have ended, the control
    /// stream is a new one, and nothing is left of what the guest and its users did, but for
    /// processor registers that no snapshot holds.
    ///
    /// # Errors
    /// [`MachineError::Ended`] if the guest has ended, [`MachineError::Unresettable`] for one that
    /// [cannot be reset](Machine::can_reset), or the host refuses. After an error the machine must
    /// not be used any more.
    pub fn reset(&self, timings: &mut Timings) -> Result<(), MachineError> {
        let pristine = self.pristine()?;
        let snapshot = &*self.origin;
        let _turn = self.turn();
        self.vcpus.pause();
        if let Some(failure) = self.failure() {
            return Err(failure.into());
        }
        timings.step("stop vCPUs");
        let _held = self.vsock.hold();
        self.vcpus.fate().end_use();
        reset_devices(&self.bus, &self.ram, snapshot, &self.disks, &self.console)?;
        timings.step("reset devices");
        // Before memory: what they are in the middle of may still write to it. And after
        // devices, which may have given them interrupts.
        self.vcpus.reset()?;
        timings.step("reset vCPUs");
        let kept = &snapshot.working_set.written;
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        reset::reset(&self.ram, pristine, kept, &mut spare).map_err(memory_error("put back"))?;
        timings.step("reset memory");
        self.vm.set_clock_ns(snapshot.arch.clock.monotonic_ns)?;
        Ok(())
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

    /// A handle that opens streams by itself, also while the machine is dropped.
    #[must_use]
    pub fn streams(&self) -> Vsock {
        self.vsock.clone()
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

    /// What tells how the guest ended, also once the machine is gone.
    #[must_use]
    pub fn witness(&self) -> Witness {
        Witness::new(Arc::clone(self.vcpus.fate()), self.console.clone())
    }

    /// The processor time that the guest has used on this host.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.vcpus.cpu_time()
    }

    /// How often the processor has left the guest for this host.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.vcpus.exits()
    }

    /// The files that the machine's memory began as; none when it came in chunks.
    #[must_use]
    pub fn memory_files(&self) -> Option<&MemoryFiles> {
        self.memory_files.as_ref()
    }

    /// The state that the machine began from.
    #[must_use]
    pub fn origin(&self) -> &Snapshot {
        &self.origin
    }

    /// Stops the guest and reads its state. The guest stays stopped; streams to it stay open,
    /// but in the state only the control stream goes on: a guest that is restored from it finds
    /// all others reset. If it fails, the machine goes on as before.
    ///
    /// # Errors
    /// [`MachineError::Ended`] if the guest has ended, [`MachineError::Busy`] if data for the
    /// guest's agent is still under way, or the state or memory cannot be read.
    pub fn capture(&self) -> Result<Captured, MachineError> {
        let (mut captured, stopped) = self.capture_stopped()?;
        stopped.stay();
        captured.dirty.trim();
        Ok(captured)
    }

    /// The same for a guest that goes on at once, with all its streams, as if nothing had
    /// happened. One that was not running is left so.
    ///
    /// # Errors
    /// Those of [`Machine::capture`].
    pub fn capture_live(&self) -> Result<Captured, MachineError> {
        let (mut captured, stopped) = self.capture_stopped()?;
        drop(stopped);
        captured.stopped.step("go on");
        captured.dirty.trim();
        Ok(captured)
    }

    /// Stops the guest and tells which pages it has used since the start.
    ///
    /// # Errors
    /// The process's page map cannot be read.
    pub fn touched(&self) -> Result<WorkingSet, MachineError> {
        let _turn = self.turn();
        self.vcpus.pause();
        dirty::touched(&self.ram).map_err(memory_error("looked through"))
    }

    /// Captures, and hands out the stopped guest as well.
    fn capture_stopped(&self) -> Result<(Captured, Stopped<'_>), MachineError> {
        let turn = self.turn();
        if let Some(failure) = self.failure() {
            return Err(failure.into());
        }
        let mut map = PageMap::open().map_err(memory_error("looked through"))?;
        let mut dirty = DirtyPages::prepare(&self.ram, &mut map).map_err(memory_error("copied"))?;
        let mut attempts = 0;
        loop {
            let mut timings = Timings::start();
            let stopped = Stopped::new(&self.vcpus);
            timings.step("stop vCPUs");
            match self.read_stopped(&mut dirty, &mut map, &mut timings) {
                Ok(snapshot) => {
                    let stopped = stopped.with(turn);
                    return Ok((Captured { snapshot, dirty, stopped: timings }, stopped));
                }
                Err(MachineError::Busy) if stopped.goes_on && attempts < CAPTURE_ATTEMPTS => {
                    attempts += 1;
                    drop(stopped);
                    thread::sleep(CAPTURE_INTERVAL);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads state and pages of a guest that stands still.
    fn read_stopped(
        &self,
        dirty: &mut DirtyPages,
        map: &mut PageMap,
        timings: &mut Timings,
    ) -> Result<Snapshot, MachineError> {
        if let Some(failure) = self.failure() {
            return Err(failure.into());
        }
        let _frozen = self.vsock.freeze().map_err(|_| MachineError::Busy)?;
        let saved = self.vcpus.save()?;
        timings.step("save vCPUs");
        let snapshot = self.state(saved)?;
        timings.step("save devices");
        dirty.find(&self.ram, map).map_err(memory_error("looked through"))?;
        timings.step("find pages");
        dirty.copy(&self.ram).map_err(memory_error("copied"))?;
        timings.step("copy pages");
        Ok(snapshot)
    }

    fn state(&self, saved: Vec<Saved>) -> Result<Snapshot, MachineError> {
        let tsc_khz = saved.first().map_or(0, |first| first.tsc_khz);
        let clock =
            Clock { monotonic_ns: self.vm.clock_ns()?, realtime_ns: realtime_ns(), tsc_khz };
        let vcpus: Vec<_> = saved.into_iter().map(|vcpu| vcpu.state).collect();
        Ok(Snapshot {
            architecture: self.origin.architecture,
            hypervisor: hypervisor::family(),
            machine: self.origin.machine.clone(),
            workload: self.origin.workload.clone(),
            stop: self.origin.stop,
            arch: ArchState {
                processor: baseline::note(self.vm.as_ref(), &self.origin.arch.processor, &vcpus),
                vcpus,
                ioapic: self.bus.ioapic.state(),
                clock,
            },
            slots: self.bus.slots.iter().map(Slot::state).collect(),
            serial: self.bus.serial.state(),
            disks: self.origin.disks.clone(),
            working_set: WorkingSet::default(),
        })
    }

    #[cfg(test)]
    pub(super) fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The memory as it began, mapped beside the one that the guest has.
    fn pristine(&self) -> Result<&Ram, MachineError> {
        let files = self.memory_files.as_ref().ok_or(MachineError::Unresettable)?;
        if let Some(pristine) = self.pristine.get() {
            return Ok(pristine);
        }
        let size = self.origin.machine.memory_size;
        let pristine = Ram::map(files, size).map_err(memory_error("mapped"))?;
        pristine.populate(&self.origin.working_set.written, Populate::Read);
        Ok(self.pristine.get_or_init(|| pristine))
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guest that was stopped, and goes on when this is dropped if it ran before.
struct Stopped<'a> {
    vcpus: &'a Vcpus,
    goes_on: bool,
    /// Whose turn it is, until the guest goes on.
    _turn: Option<MutexGuard<'a, ()>>,
}

impl<'a> Stopped<'a> {
    fn new(vcpus: &'a Vcpus) -> Self {
        Self { vcpus, goes_on: vcpus.pause(), _turn: None }
    }

    fn with(mut self, turn: MutexGuard<'a, ()>) -> Self {
        self._turn = Some(turn);
        self
    }

    fn stay(mut self) {
        self.goes_on = false;
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if self.goes_on {
            self.vcpus.run();
        }
    }
}

fn memory_error(operation: &'static str) -> impl Fn(std::io::Error) -> MachineError {
    move |source| MachineError::Memory { operation, source }
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
fn show_disks(vm: &dyn Vm, mapped: &[MappedDisk]) -> Result<(), MachineError> {
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

fn make_devices(
    vm: &Arc<dyn Vm>,
    ram: &Ram,
    snapshot: &Snapshot,
    disks: &[DiskFile],
    console: &Console,
) -> Result<Bus, MachineError> {
    let ioapic = Ioapic::from_state(Arc::clone(vm), &snapshot.arch.ioapic);
    let mut slots = Vec::with_capacity(snapshot.slots.len());
    for (index, state) in (0..).zip(&snapshot.slots) {
        let slot = Slot::from_state(state, parts(index, ram, &ioapic, disks))
            .map_err(|source| MachineError::Device { slot: usize::from(index), source })?;
        slots.push(slot);
    }
    let line = ioapic.pin(SERIAL_LINE);
    let serial = SerialPort::from_state(&snapshot.serial, line, console.clone())
        .ok_or(TOO_MUCH_SERIAL_INPUT)?;
    Ok(Bus { slots, ioapic, serial })
}

/// Puts every device back to the snapshot's state, in place.
fn reset_devices(
    bus: &Bus,
    ram: &Ram,
    snapshot: &Snapshot,
    disks: &[DiskFile],
    console: &Console,
) -> Result<(), MachineError> {
    let Bus { slots, ioapic, serial } = bus;
    ioapic.reset(&snapshot.arch.ioapic);
    for ((index, state), slot) in (0..).zip(&snapshot.slots).zip(slots) {
        slot.reset(state, parts(index, ram, ioapic, disks))
            .map_err(|source| MachineError::Device { slot: usize::from(index), source })?;
    }
    serial
        .reset(&snapshot.serial, ioapic.pin(SERIAL_LINE), console.clone())
        .ok_or(TOO_MUCH_SERIAL_INPUT)?;
    console.clear();
    Ok(())
}

/// What the device of a slot gets.
fn parts<'a>(index: u8, ram: &Ram, ioapic: &Arc<Ioapic>, disks: &'a [DiskFile]) -> Parts<'a> {
    Parts { memory: Arc::clone(ram.memory()), line: ioapic.pin(layout::slot_line(index)), disks }
}

/// The host's wall clock, in nanoseconds since 1970.
#[must_use]
pub fn realtime_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
