//! The machine above the hypervisor seam, on a hypervisor that plays a script.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use supermachine_formats::snapshot::arch::x86_64::baseline::{FeatureWord, Processor, Register};
use supermachine_formats::snapshot::arch::x86_64::{Clock, CpuidLeaf, Msr, RunState, State, Vcpu};
use supermachine_formats::snapshot::arch::{ArchState, Baseline, aarch64};
use supermachine_formats::snapshot::device::{Slot, VsockConnection};
use supermachine_formats::snapshot::memory::{PAGE_SIZE, Run, runs_of, validate_runs};
use supermachine_formats::snapshot::{
    Disk, HypervisorFamily, Machine as MachineState, Snapshot, Stage, WorkingSet,
};
use supermachine_formats::wire;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::arch::layout::{
    FIRST_SHARE_SLOT, HIGH_RAM_START, IOAPIC_START, LOW_RAM_END, MAX_SHARES, PMEM_START,
    PMEM_STRIDE, ROOT_SLOT, SERIAL_PORT, SLOTS, VSOCK_SLOT, ram_windows, slot_address,
};
use crate::arch::x86_64::reset_ioapic;
use crate::backend::fake::{FakeVm, Refusal, Step};
use crate::backend::{Access, HypervisorError, Vm};
use crate::devices::{FileServer, Known, echoes, fresh_echo};
use crate::error::{GuestFailure, MachineError};
use crate::memory::{self, DirtyPages, MemoryFiles, Ram, ReadRecorder, SparePages};
use crate::os::{self, PageBuffer, PageMap, Populate, fill_random};

const MEMORY: u64 = 2 << 20;
const DISK: u64 = 2 << 20;
const PAGE: usize = PAGE_SIZE as usize;
/// Longer than any step takes: only a hang reaches it.
const HANG: Duration = Duration::from_secs(60);

/// Runs `work`, and fails if it hangs.
fn within<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = mpsc::channel();
    let thread = std::thread::spawn(move || done.send(work()));
    match result.recv_timeout(HANG) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().unwrap_err())
        }
    }
}

fn file(size: u64) -> Arc<File> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    Arc::new(file)
}

fn vcpu(index: u16) -> Vcpu {
    Vcpu {
        cpuid: Vec::new(),
        registers: None,
        special: None,
        run_state: RunState::Running,
        lapic: None,
        xsave: None,
        xcr0: None,
        debug: None,
        events: None,
        msrs: vec![Msr { index: 0x10, value: index.into() }],
    }
}

fn snapshot(vcpus: u16) -> Snapshot {
    Snapshot {
        hypervisor: HypervisorFamily::Any,
        machine: MachineState { stage: Stage::Boot, parent: None, memory_size: MEMORY, vcpus },
        workload: None,
        stop: None,
        image_command: None,
        after_restore: None,
        arch: ArchState::X86_64(State {
            processor: Processor::of(Baseline::V3),
            vcpus: (0..vcpus).map(vcpu).collect(),
            ioapic: reset_ioapic(),
            clock: Clock { monotonic_ns: 77, realtime_ns: 0, tsc_khz: 0 },
        }),
        slots: boot_slots(),
        serial: reset_serial(),
        disks: Vec::new(),
        working_set: WorkingSet::default(),
    }
}

/// A snapshot's state of processors.
fn arch(snapshot: &Snapshot) -> &State {
    snapshot.arch.x86_64().unwrap()
}

fn arch_mut(snapshot: &mut Snapshot) -> &mut State {
    snapshot.arch.x86_64_mut().unwrap()
}

fn with_disk(mut snapshot: Snapshot) -> Snapshot {
    snapshot.disks = vec![Disk { size: DISK }];
    snapshot.slots[usize::from(ROOT_SLOT)] = mapped_disk(ROOT_SLOT, 0, DISK);
    snapshot
}

fn restore(vm: &Arc<FakeVm>, snapshot: Snapshot) -> Result<Machine, MachineError> {
    restore_from(vm, snapshot, file(MEMORY))
}

/// The pages that differ from the machine's original memory.
fn changed(machine: &Machine, dirty: &DirtyPages) -> Vec<u64> {
    let mut before = [0; PAGE];
    let mut differs = |(page, content): &(u64, &[u8; PAGE])| {
        machine.memory_files().unwrap().read_page(*page, &mut before).unwrap();
        before != **content
    };
    dirty.iter().filter(|page| differs(page)).map(|(page, _)| page).collect()
}

fn refused(result: Result<Machine, MachineError>) -> MachineError {
    match result {
        Ok(_) => panic!("was restored"),
        Err(error) => error,
    }
}

fn of_files(snapshot: Snapshot, memory: Arc<File>, disks: Vec<Arc<File>>) -> Restore {
    let origin = Origin::Files { memory: memory.into(), disks };
    Restore::new(Arc::new(snapshot), origin)
}

fn restore_from(
    vm: &Arc<FakeVm>,
    snapshot: Snapshot,
    memory: Arc<File>,
) -> Result<Machine, MachineError> {
    let disks = snapshot.disks.iter().map(|_| file(DISK)).collect();
    let vm: Arc<dyn Vm> = vm.clone();
    within(move || {
        Machine::restore_on(vm, of_files(snapshot, memory, disks), &mut Timings::start())
    })
}

/// Plays a script on the first vCPU, and returns the results of its reads.
fn play(script: Vec<Step>) -> Vec<Vec<u8>> {
    let vm = Arc::new(FakeVm::with_script(script));
    let machine = restore(&vm, with_disk(snapshot(1))).unwrap();
    machine.run();
    vm.wait_idle(1);
    drop(machine);
    vm.answers()
}

fn read(address: u64, width: usize) -> Step {
    Step::Read { address, width }
}

fn resume() -> wire::Control {
    let entropy = [7; wire::ENTROPY_SIZE];
    let realtime_ns = realtime_ns();
    wire::Control::Resume(wire::Resume {
        realtime_ns,
        entropy,
        hostname: None,
        network: None,
        shares: Vec::new(),
        volumes: Vec::new(),
    })
}

#[test]
fn restore_maps_memory_and_disks_at_their_addresses() {
    let vm = Arc::new(FakeVm::default());
    let _machine = restore(&vm, with_disk(snapshot(1))).unwrap();
    let disk = PMEM_START + u64::from(ROOT_SLOT) * PMEM_STRIDE;
    let expected = [
        (0, 0, MEMORY, Access::ReadWrite),
        (8 + u32::from(ROOT_SLOT), disk, DISK, Access::ReadOnly),
    ];
    assert_eq!(vm.windows(), expected);
}

#[test]
fn slot_read_identifies_transport_and_device() {
    let script = (0..SLOTS)
        .flat_map(|slot| [0, 4, 8].map(|register| read(slot_address(slot) + register, 4)))
        .collect();
    let answers = play(script);
    for (slot, registers) in answers.chunks(3).enumerate() {
        let device: u32 = match slot {
            0 => 19,
            1 => 4,
            2 => 27,
            _ => 0,
        };
        let expected: [&[u8]; 3] = [b"virt", &2_u32.to_le_bytes(), &device.to_le_bytes()];
        assert_eq!(registers, expected, "slot {slot}");
    }
}

#[test]
fn read_without_a_device_returns_all_ones() {
    let outside =
        [slot_address(0) - 4, slot_address(SLOTS), IOAPIC_START - 4, IOAPIC_START + 0x1000];
    let mut script: Vec<Step> = outside.iter().map(|address| read(*address, 4)).collect();
    script.push(read(u64::MAX, 8));
    script.push(Step::PortRead { port: 0x80, width: 2 });
    script.push(Step::PortRead { port: SERIAL_PORT, width: 2 });
    script.push(Step::PortRead { port: SERIAL_PORT + 8, width: 1 });
    for (at, answer) in play(script).into_iter().enumerate() {
        assert!(answer.iter().all(|byte| *byte == 0xff), "read {at}: {answer:x?}");
    }
}

#[test]
fn write_without_a_device_is_dropped() {
    let script = vec![
        Step::Write { address: slot_address(SLOTS), data: vec![1; 4] },
        Step::Write { address: slot_address(SLOTS - 1) + 0x70, data: vec![1; 4] },
        Step::Write { address: u64::MAX, data: vec![1; 8] },
        Step::PortWrite { port: u16::MAX, data: vec![1] },
        read(slot_address(SLOTS - 1) + 0x70, 4),
    ];
    assert_eq!(play(script), [[0; 4]]);
}

#[test]
fn serial_output_appears_on_console() {
    let write = |data: &[u8]| Step::PortWrite { port: SERIAL_PORT, data: data.to_vec() };
    let vm = Arc::new(FakeVm::with_script(vec![write(b"h"), write(b"ello")]));
    let machine = restore(&vm, snapshot(1)).unwrap();
    machine.run();
    vm.wait_idle(1);
    assert_eq!(machine.console(), b"hello");
}

#[test]
fn restored_machine_does_not_run_before_run() {
    let vm = Arc::new(FakeVm::with_script(vec![read(slot_address(0), 4)]));
    let machine = restore(&vm, snapshot(1)).unwrap();
    let state = machine.capture_live().unwrap();
    assert_eq!(vm.inside(), 0);
    assert!(vm.answers().is_empty());
    assert_eq!(arch(&state.snapshot).clock.monotonic_ns, 77);
    machine.run();
    vm.wait_idle(1);
    assert_eq!(vm.answers(), [b"virt"]);
}

#[test]
fn guest_reads_memory_file_and_never_changes_it() {
    let memory = file(MEMORY);
    memory.write_all_at(&[9], 5 * PAGE_SIZE).unwrap();
    let script = vec![
        Step::Load { address: 5 * PAGE_SIZE },
        Step::Store { address: 5 * PAGE_SIZE, data: vec![1] },
        Step::Load { address: 5 * PAGE_SIZE },
    ];
    let vm = Arc::new(FakeVm::with_script(script));
    let machine = restore_from(&vm, snapshot(1), Arc::clone(&memory)).unwrap();
    machine.run();
    vm.wait_idle(1);
    assert_eq!(vm.answers(), [[9], [1]]);
    drop(machine);
    let mut byte = [0];
    memory.read_exact_at(&mut byte, 5 * PAGE_SIZE).unwrap();
    assert_eq!(byte, [9]);
}

#[test]
fn capture_of_unused_machine_equals_its_snapshot() {
    let vm = Arc::new(FakeVm::default());
    let given = with_disk(snapshot(2));
    let machine = restore(&vm, given.clone()).unwrap();
    let captured = machine.capture().unwrap();
    assert_eq!((captured.dirty.runs(), captured.dirty.count()), (&[][..], 0));
    let captured = captured.snapshot;
    assert_eq!(arch(&captured).vcpus, arch(&given).vcpus);
    assert_eq!(captured.slots, given.slots);
    assert_eq!(arch(&captured).ioapic, arch(&given).ioapic);
    assert_eq!(captured.serial, given.serial);
    assert_eq!(captured.disks, given.disks);
    assert_eq!(captured.machine, given.machine);
    assert_eq!(arch(&captured).clock.tsc_khz, 1_000_000);
}

#[test]
fn capture_holds_written_pages_only() {
    let memory = file(MEMORY);
    memory.write_all_at(&[1; PAGE], 0).unwrap();
    memory.write_all_at(&[2; PAGE], 2 * PAGE_SIZE).unwrap();
    let script = vec![
        Step::Store { address: 0, data: vec![1] },
        Step::Store { address: PAGE_SIZE, data: vec![5] },
        Step::Store { address: 2 * PAGE_SIZE, data: vec![0; PAGE] },
        Step::Store { address: MEMORY - 1, data: vec![6] },
    ];
    let vm = Arc::new(FakeVm::with_script(script));
    let machine = restore_from(&vm, snapshot(1), memory).unwrap();
    machine.run();
    vm.wait_idle(1);
    let first = machine.capture().unwrap();
    let last = MEMORY / PAGE_SIZE - 1;
    assert_eq!(first.dirty.runs(), runs_of([0, 1, 2, last]));
    assert_eq!(first.dirty.count(), 4);
    assert_eq!(first.dirty.page(1).unwrap()[0], 5);
    assert_eq!(first.dirty.page(last).unwrap()[PAGE - 1], 6);
    for absent in [3, last - 1, last + 1, u64::MAX] {
        assert_eq!(first.dirty.page(absent), None);
    }
    let numbers: Vec<u64> = first.dirty.iter().map(|(page, _)| page).collect();
    assert_eq!(numbers, [0, 1, 2, last]);
    assert!(first.dirty.iter().all(|(page, content)| first.dirty.page(page) == Some(content)));
    assert_eq!(changed(&machine, &first.dirty), [1, 2, last]);

    let mut second = machine.capture().unwrap();
    second.snapshot.arch.set_realtime_ns(first.snapshot.arch.realtime_ns());
    assert!(second.dirty.iter().eq(first.dirty.iter()));
    assert_eq!(second.snapshot, first.snapshot);
}

#[test]
fn machine_runs_again_after_capture() {
    let write = |data: &[u8]| Step::PortWrite { port: SERIAL_PORT, data: data.to_vec() };
    let vm = Arc::new(FakeVm::with_script(vec![write(b"a")]));
    let machine = restore(&vm, snapshot(3)).unwrap();
    within(move || {
        for _ in 0..50 {
            machine.run();
            machine.capture().unwrap();
        }
        machine.run();
        vm.wait_idle(3);
        assert_eq!(machine.failure(), None);
    });
}

#[test]
fn working_set_is_populated_before_guest_runs() {
    let vm = Arc::new(FakeVm::default());
    let mut given = snapshot(1);
    given.working_set = WorkingSet {
        written: vec![Run { first: 3, count: 2 }],
        read: vec![Run { first: 8, count: 1 }],
    };
    let machine = restore(&vm, given).unwrap();
    machine.run();
    vm.wait_idle(1);
    let touched = machine.touched().unwrap();
    assert_eq!(touched.written, runs_of([3, 4]));
    let is_in_place = |page| touched.read.iter().any(|run| (run.first..run.end()).contains(&page));
    assert!(is_in_place(8), "{:?}", touched.read);
    let dirty = machine.capture().unwrap().dirty;
    assert_eq!(dirty.runs(), touched.written);
    assert_eq!(changed(&machine, &dirty), [0; 0]);
}

#[test]
fn sixteen_vcpus_are_saved_in_order() {
    let vm = Arc::new(FakeVm::default());
    let machine = restore(&vm, snapshot(16)).unwrap();
    machine.run();
    vm.wait_idle(16);
    assert_eq!(vm.alive(), 16);
    let captured = machine.capture().unwrap();
    assert_eq!(arch(&captured.snapshot).vcpus, (0..16).map(vcpu).collect::<Vec<_>>());
    within(move || drop(machine));
    assert_eq!(vm.alive(), 0);
}

#[test]
fn guest_shutdown_is_reported_and_closes_streams() {
    let vm = Arc::new(FakeVm::with_script(vec![Step::Shutdown]));
    let machine = restore(&vm, snapshot(4)).unwrap();
    let mut control = machine.control().unwrap();
    assert_eq!(machine.failure(), None);
    machine.run();
    let end = within(move || control.read_to_end(&mut Vec::new()));
    assert_eq!(end.unwrap(), 0);
    assert_eq!(machine.failure(), Some(GuestFailure::Shutdown));
    // It stays stopped, and cannot be captured.
    machine.run();
    let machine = within(move || {
        for result in [machine.capture(), machine.capture_live()] {
            let Err(MachineError::Ended { source }) = result else { panic!("{result:?}") };
            assert_eq!(source, GuestFailure::Shutdown);
        }
        machine
    });
    assert_eq!(machine.failure(), Some(GuestFailure::Shutdown));
    within(move || drop(machine));
    assert_eq!(vm.alive(), 0);
}

#[test]
fn guest_that_cannot_run_reports_the_reason() {
    let failed = GuestFailure::Unrunnable { reason: "the script says so".into(), code: 7 };
    let refused = GuestFailure::Unrunnable { reason: "hypervisor refused".into(), code: 0 };
    for (step, expected) in [(Step::Fail, failed), (Step::Refuse, refused)] {
        let vm = Arc::new(FakeVm::with_script(vec![step]));
        let machine = restore(&vm, snapshot(2)).unwrap();
        let mut control = machine.control().unwrap();
        machine.run();
        within(move || control.read_to_end(&mut Vec::new())).unwrap();
        assert_eq!(machine.failure(), Some(expected));
    }
}

#[test]
fn drop_during_guest_shutdown_does_not_hang() {
    within(|| {
        for _ in 0..500 {
            let vm = Arc::new(FakeVm::with_script(vec![Step::Shutdown]));
            let machine = restore(&vm, snapshot(2)).unwrap();
            let mut control = machine.control().unwrap();
            machine.run();
            // The streams close just before the other vCPUs pause.
            control.read_to_end(&mut Vec::new()).unwrap();
            drop(machine);
            assert_eq!(vm.alive(), 0);
        }
    });
}

#[test]
fn drop_in_any_state_leaves_no_vcpu() {
    let uses: [fn(&Machine); 5] = [
        |_| {},
        Machine::run,
        |machine| drop(machine.capture().unwrap()),
        |machine| {
            machine.run();
            drop(machine.control().unwrap());
        },
        |machine| {
            machine.run();
            drop(machine.capture_live().unwrap());
        },
    ];
    for use_machine in uses {
        let vm = Arc::new(FakeVm::default());
        let machine = restore(&vm, snapshot(3)).unwrap();
        use_machine(&machine);
        within(move || drop(machine));
        assert_eq!(vm.alive(), 0);
    }
}

#[test]
fn connect_without_driver_is_refused() {
    let vm = Arc::new(FakeVm::default());
    let machine = restore(&vm, snapshot(1)).unwrap();
    match machine.connect(2, b"") {
        Err(MachineError::Stream { source }) => {
            assert_eq!(source.kind(), io::ErrorKind::NotConnected);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn restore_refused_by_hypervisor_leaves_no_vcpu() {
    let refusals = [
        Refusal::Map,
        Refusal::Create(0),
        Refusal::Create(5),
        Refusal::Restore(7),
        Refusal::SetClock,
    ];
    for refusal in refusals {
        let vm = Arc::new(FakeVm::refusing(refusal));
        let source = match refused(restore(&vm, snapshot(8))) {
            MachineError::Hypervisor { source } => source,
            other => panic!("{refusal:?}: {other:?}"),
        };
        assert!(matches!(source, HypervisorError::Capability { .. }), "{refusal:?}: {source}");
        assert_eq!(vm.alive(), 0, "{refusal:?}");
    }
}

#[test]
fn failed_vcpu_save_fails_only_the_capture() {
    let vm = Arc::new(FakeVm::refusing(Refusal::Save));
    let machine = restore(&vm, snapshot(2)).unwrap();
    let result = machine.capture();
    assert!(matches!(result, Err(MachineError::Hypervisor { .. })), "{result:?}");
    assert_eq!(vm.inside(), 0);
    machine.run();
    vm.wait_inside(2);
    within(move || {
        for capture in [Machine::capture, Machine::capture_live] {
            let result = capture(&machine);
            assert!(matches!(result, Err(MachineError::Hypervisor { .. })), "{result:?}");
            vm.wait_inside(2);
        }
    });
}

#[test]
fn live_capture_resumes_running_machine() {
    let vm = Arc::new(FakeVm::with_script(vec![Step::Store { address: 0, data: vec![7] }]));
    let machine = restore(&vm, snapshot(3)).unwrap();
    machine.run();
    within(move || {
        for _ in 0..50 {
            vm.wait_inside(3);
            let captured = machine.capture_live().unwrap();
            assert_eq!(captured.dirty.page(0).unwrap()[0], 7);
            assert_eq!(arch(&captured.snapshot).vcpus, (0..3).map(vcpu).collect::<Vec<_>>());
            let steps: Vec<&str> = captured.stopped.steps().iter().map(|(name, _)| *name).collect();
            assert_eq!((steps[0], steps[steps.len() - 1]), ("stop vCPUs", "resume"));
        }
        vm.wait_inside(3);
        machine.capture().unwrap();
        assert_eq!(vm.inside(), 0);
    });
}

#[test]
fn paused_machine_stays_paused_and_resumes_with_the_time() {
    let vm = Arc::new(FakeVm::default());
    let machine = restore(&vm, with_control(snapshot(2))).unwrap();
    machine.run();
    within(move || {
        vm.wait_inside(2);
        // A running machine gets no message, for which there is no buffer here.
        machine.resume().unwrap();
        drop(machine.capture_live().unwrap());
        vm.wait_inside(2);
        for _ in 0..2 {
            machine.pause().unwrap();
            assert_eq!(vm.inside(), 0);
        }
        let before = machine.capture_live().unwrap();
        drop(machine.capture_live().unwrap());
        assert_eq!(vm.inside(), 0);
        let Slot::Vsock(_, sockets) = &before.snapshot.slots[0] else { panic!("no sockets") };
        assert_eq!(sockets.connections[0].sent, 0);
        assert_eq!(vm.pauses(), 0);
        for _ in 0..2 {
            machine.resume().unwrap();
            vm.wait_inside(2);
        }
        assert_eq!(vm.pauses(), 2, "each vCPU once");
        // The message waits for a buffer.
        machine.pause().unwrap();
        assert!(matches!(machine.capture_live(), Err(MachineError::Busy)));
        drop(machine);
        assert_eq!(vm.alive(), 0);
    });
}

#[test]
fn pause_and_resume_after_guest_shutdown_fail() {
    let vm = Arc::new(FakeVm::with_script(vec![Step::Shutdown]));
    let machine = restore(&vm, snapshot(1)).unwrap();
    let mut control = machine.control().unwrap();
    machine.run();
    within(move || {
        control.read_to_end(&mut Vec::new()).unwrap();
        for result in [machine.pause(), machine.resume()] {
            assert!(matches!(result, Err(MachineError::Ended { .. })), "{result:?}");
        }
    });
}

#[test]
fn concurrent_commands_do_not_hang() {
    let vm = Arc::new(FakeVm::default());
    let machine = Arc::new(restore(&vm, snapshot(2)).unwrap());
    let uses: [fn(&Machine); 6] = [
        Machine::run,
        |machine| machine.pause().unwrap(),
        |machine| drop(machine.capture().unwrap()),
        |machine| drop(machine.capture_live().unwrap()),
        |machine| drop(machine.capture_live().unwrap()),
        |machine| drop(machine.touched().unwrap()),
    ];
    let threads: Vec<_> = uses
        .into_iter()
        .map(|use_machine| {
            let machine = Arc::clone(&machine);
            std::thread::spawn(move || (0..200).for_each(|_| use_machine(&machine)))
        })
        .collect();
    within(move || threads.into_iter().for_each(|thread| thread.join().unwrap()));
    machine.run();
    within(move || {
        vm.wait_inside(2);
        drop(machine);
    });
}

#[test]
fn vcpu_thread_panic_stops_guest_without_hanging() {
    let ended = GuestFailure::Unrunnable { reason: "vCPU thread exited".into(), code: 0 };
    let vm = Arc::new(FakeVm::with_script(vec![Step::Panic]));
    let machine = restore(&vm, snapshot(3)).unwrap();
    let mut control = machine.control().unwrap();
    machine.run();
    within(move || {
        control.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(machine.failure(), Some(ended.clone()));
        machine.run();
        let result = machine.capture_live();
        let Err(MachineError::Ended { source }) = result else { panic!("{result:?}") };
        assert_eq!(source, ended);
        machine.touched().unwrap();
    });

    let vm = Arc::new(FakeVm::refusing(Refusal::SaveAtAll));
    let machine = restore(&vm, snapshot(3)).unwrap();
    machine.run();
    within(move || {
        let result = machine.capture_live();
        assert!(matches!(result, Err(MachineError::Ended { .. })), "{result:?}");
        drop(machine);
        assert_eq!(vm.alive(), 0);
    });
}

#[test]
fn lost_kick_is_repeated() {
    let vm = Arc::new(FakeVm::refusing(Refusal::FirstKick));
    let machine = restore(&vm, snapshot(2)).unwrap();
    machine.run();
    vm.wait_inside(2);
    within(move || machine.capture().unwrap());
}

/// A snapshot whose guest has a control connection, and a driver with a ring of two empty
/// receive buffers that the driver has not announced.
fn with_control(mut snapshot: Snapshot) -> Snapshot {
    let Slot::Vsock(transport, sockets) = &mut snapshot.slots[0] else { panic!("no sockets") };
    transport.driver_features = 1 << 32;
    transport.status = 0xf;
    for (index, queue) in (0..).zip(&mut transport.queues) {
        let base = 0x1_0000 + index * 0x4000;
        (queue.descriptors, queue.available, queue.used) = (base, base + 0x1000, base + 0x2000);
        queue.size = 8;
        queue.ready = true;
    }
    sockets.connections.push(VsockConnection {
        host_port: 1,
        guest_port: 9000,
        peer_buffer: 1 << 16,
        peer_consumed: 0,
        sent: 0,
        consumed: 0,
    });
    snapshot
}

#[test]
fn live_capture_waits_for_quiet_control_stream() {
    let mut buffers = Vec::new();
    for index in 0..2_u64 {
        buffers.extend((0x4_0000 + index * 0x1000).to_le_bytes());
        buffers.extend(0x1000_u32.to_le_bytes());
        buffers.extend(2_u16.to_le_bytes());
        buffers.extend(0_u16.to_le_bytes());
    }
    let script = vec![
        Step::Store { address: 0x1_0000, data: buffers },
        Step::Store { address: 0x1_1000, data: vec![0, 0, 2, 0, 0, 0, 1, 0] },
        Step::Write { address: slot_address(0) + 0x50, data: vec![0; 4] },
    ];
    let vm = Arc::new(FakeVm::with_script(script));
    let machine = restore(&vm, with_control(snapshot(1))).unwrap();
    machine.send_control(&resume()).unwrap();
    for capture in [Machine::capture, Machine::capture_live] {
        assert!(matches!(capture(&machine), Err(MachineError::Busy)));
    }
    machine.run();
    let captured = within(move || {
        let captured = machine.capture_live().unwrap();
        vm.wait_inside(1);
        captured
    });
    let Slot::Vsock(_, sockets) = &captured.snapshot.slots[0] else { panic!("no sockets") };
    assert!(sockets.connections[0].sent > 0);
}

#[test]
fn capture_with_busy_control_stream_fails_and_machine_runs() {
    let vm = Arc::new(FakeVm::default());
    let machine = restore(&vm, with_control(snapshot(1))).unwrap();
    machine.send_control(&resume()).unwrap();
    machine.run();
    within(move || {
        for capture in [Machine::capture, Machine::capture_live] {
            vm.wait_inside(1);
            assert!(matches!(capture(&machine), Err(MachineError::Busy)));
        }
        vm.wait_inside(1);
    });
}

#[test]
fn restore_with_wrong_number_of_slots_is_refused() {
    for slots in [0, 15, 17, 255, 256, 1000] {
        let vm = Arc::new(FakeVm::default());
        let mut given = snapshot(1);
        given.slots.resize(slots, Slot::Empty);
        let error = refused(restore(&vm, given));
        assert!(matches!(error, MachineError::Snapshot { .. }), "{slots}: {error:?}");
    }
}

#[test]
fn restore_without_socket_device_is_refused() {
    let vm = Arc::new(FakeVm::default());
    let mut given = snapshot(1);
    given.slots[0] = Slot::Empty;
    let error = refused(restore(&vm, given));
    assert!(matches!(error, MachineError::Snapshot { .. }), "{error:?}");
}

#[test]
fn restore_with_disk_outside_its_window_is_refused() {
    let edits: [fn(&mut Snapshot); 4] = [
        |snapshot| snapshot.slots[2] = mapped_disk(3, 0, DISK),
        |snapshot| snapshot.slots[2] = mapped_disk(2, 0, 2 * DISK),
        |snapshot| snapshot.slots[2] = mapped_disk(2, 1, DISK),
        |snapshot| {
            snapshot.disks[0].size = PMEM_STRIDE + DISK;
            snapshot.slots[2] = mapped_disk(2, 0, PMEM_STRIDE + DISK);
        },
    ];
    for (at, edit) in edits.into_iter().enumerate() {
        let vm = Arc::new(FakeVm::default());
        let mut given = with_disk(snapshot(1));
        edit(&mut given);
        let error = refused(restore(&vm, given));
        assert!(matches!(error, MachineError::Snapshot { .. }), "{at}: {error:?}");
    }
}

#[test]
fn restore_with_short_disk_file_names_the_disk() {
    let vm: Arc<dyn Vm> = Arc::new(FakeVm::default());
    let parts = of_files(with_disk(snapshot(1)), file(MEMORY), vec![file(DISK - 1)]);
    let error = refused(Machine::restore_on(vm, parts, &mut Timings::start()));
    assert!(matches!(error, MachineError::Disk { index: 0, .. }), "{error:?}");
}

#[test]
fn restore_with_short_memory_file_is_refused() {
    let vm = Arc::new(FakeVm::default());
    let error = refused(restore_from(&vm, snapshot(1), file(MEMORY - 1)));
    assert!(matches!(error, MachineError::Memory { operation: "mapped", .. }), "{error:?}");
}

#[test]
fn restore_with_illegal_device_state_names_the_slot() {
    let vm = Arc::new(FakeVm::default());
    let mut given = snapshot(1);
    let Slot::Rng(virtio) = &mut given.slots[1] else { panic!("no random device in its slot") };
    virtio.status = u32::MAX;
    let error = refused(restore(&vm, given));
    assert!(matches!(error, MachineError::Device { slot: 1, .. }), "{error:?}");
}

#[test]
fn restore_on_another_host_names_both() {
    let mut given = snapshot(1);
    given.arch = ArchState::Aarch64(aarch64::State {
        processor: aarch64::Processor::of(Baseline::Armv8_2),
        vcpus: vec![aarch64::Vcpu::after_reset(0, aarch64::Power::On)],
        gic: aarch64::Gic::reset(64),
        counter: aarch64::Counter::after_reset(),
    });
    let parts = of_files(given, file(MEMORY), Vec::new());
    let error = refused(Machine::restore(parts, &mut Timings::start()));
    assert_eq!(
        error.to_string(),
        "snapshot is for aarch64, this host is x86_64; bake the image on x86_64"
    );

    let mut given = snapshot(1);
    given.hypervisor = HypervisorFamily::Hvf;
    let parts = of_files(given, file(MEMORY), Vec::new());
    let error = refused(Machine::restore(parts, &mut Timings::start()));
    assert_eq!(
        error.to_string(),
        "snapshot is for Hypervisor.framework, this host has KVM; bake the image with KVM"
    );
}

#[test]
fn memory_above_the_device_hole_starts_at_four_gib() {
    let size = LOW_RAM_END + (4 << 20);
    let ram = Ram::map(&file(size).into(), ram_windows(size)).unwrap();
    let memory = ram.memory();
    memory.write_slice(&[1], GuestAddress(LOW_RAM_END - 1)).unwrap();
    memory.write_slice(&[2], GuestAddress(HIGH_RAM_START)).unwrap();
    assert!(memory.write_slice(&[3], GuestAddress(LOW_RAM_END)).is_err());
    let hole = LOW_RAM_END / PAGE_SIZE;
    assert_eq!(memory::touched(&ram).unwrap().written, runs_of([hole - 1, hole]));
    let mut map = PageMap::open().unwrap();
    let mut dirty = DirtyPages::prepare(&ram, &mut map).unwrap();
    dirty.find(&ram, &mut map).unwrap();
    dirty.copy(&ram).unwrap();
    assert_eq!(dirty.runs(), [Run { first: hole - 1, count: 2 }]);
    assert_eq!(dirty.page(hole - 1).unwrap()[PAGE - 1], 1);
    assert_eq!(dirty.page(hole).unwrap()[0], 2);
    assert_eq!(dirty.page(size / PAGE_SIZE), None);
}

#[test]
fn runs_are_cut_at_window_borders() {
    let size = LOW_RAM_END + (4 << 20);
    let ram = Ram::map(&file(size).into(), ram_windows(size)).unwrap();
    let hole = LOW_RAM_END / PAGE_SIZE;
    let across = [Run { first: hole - 1, count: 2 }];
    let expected = [(LOW_RAM_END - PAGE_SIZE, PAGE_SIZE), (HIGH_RAM_START, PAGE_SIZE)];
    assert_eq!(ram.guest_ranges(&across), expected);
    ram.populate(&across, Populate::Write);
    assert_eq!(memory::touched(&ram).unwrap().written, runs_of([hole - 1, hole]));
    let beyond = [Run { first: size / PAGE_SIZE, count: 9 }];
    assert!(ram.guest_ranges(&beyond).is_empty());
}

#[test]
fn populate_outside_a_region_is_refused() {
    let ram = Ram::map(&file(MEMORY).into(), ram_windows(MEMORY)).unwrap();
    let (_, region) = &ram.windows()[0];
    for (offset, size) in [(MEMORY, PAGE_SIZE), (0, MEMORY + PAGE_SIZE), (u64::MAX, PAGE_SIZE)] {
        let result = os::populate(region, offset, size, Populate::Read);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    assert!(memory::touched(&ram).unwrap().written.is_empty());
}

#[test]
fn touched_reports_read_pages_as_read() {
    let file = file(MEMORY);
    file.write_all_at(&[1; 2 * PAGE], 0).unwrap();
    let ram = Ram::map(&Arc::clone(&file).into(), ram_windows(MEMORY)).unwrap();
    ram.populate(&[Run { first: 1, count: 1 }], Populate::Read);
    assert!(memory::touched(&ram).unwrap().written.is_empty());
    let read = memory::touched(&ram).unwrap().read;
    let read: Vec<u64> = read.iter().flat_map(|run| run.first..run.end()).collect();
    assert!(read.contains(&1), "{read:?}");
}

#[test]
fn recorded_reads_are_the_pages_that_were_read() {
    let file = file(MEMORY);
    file.write_all_at(&[1; 64 * PAGE], 0).unwrap();
    let ram = Ram::map(&Arc::clone(&file).into(), ram_windows(MEMORY)).unwrap();
    let recorder = ReadRecorder::start(&ram).unwrap();
    let byte = |page: u64| {
        let mut byte = [0];
        ram.memory().read_slice(&mut byte, GuestAddress(page * PAGE_SIZE)).unwrap();
        byte[0]
    };
    assert_eq!([byte(3), byte(9), byte(40)], [1; 3]);
    ram.memory().write_slice(&[2], GuestAddress(5 * PAGE_SIZE)).unwrap();
    let touched = memory::touched(&ram).unwrap();
    let pages = |runs: &[Run]| runs.iter().flat_map(|run| run.first..run.end()).collect::<Vec<_>>();
    assert_eq!((pages(&touched.written), pages(&touched.read)), (vec![5], vec![3, 9, 40]));
    drop(recorder);
    assert_eq!((byte(5), byte(50)), (2, 1));
}

#[test]
fn copy_of_more_pages_than_prepared_holds_all() {
    let size = 16 << 20;
    let ram = Ram::map(&file(size).into(), ram_windows(size)).unwrap();
    let mut map = PageMap::open().unwrap();
    let mut dirty = DirtyPages::prepare(&ram, &mut map).unwrap();
    // Every third page, so that there are many runs.
    let pages: Vec<u64> = (0..size / PAGE_SIZE).step_by(3).collect();
    for page in &pages {
        ram.memory().write_slice(&page.to_le_bytes(), GuestAddress(page * PAGE_SIZE)).unwrap();
    }
    dirty.find(&ram, &mut map).unwrap();
    dirty.copy(&ram).unwrap();
    dirty.trim();
    assert_eq!(dirty.runs(), runs_of(pages.clone()));
    for page in pages {
        assert_eq!(dirty.page(page).unwrap()[..8], page.to_le_bytes());
    }
}

#[test]
fn page_map_scan_and_read_agree() {
    let file = file(MEMORY);
    file.write_all_at(&[1; 8 * PAGE], 0).unwrap();
    let ram = Ram::map(&Arc::clone(&file).into(), ram_windows(MEMORY)).unwrap();
    ram.populate(&[Run { first: 0, count: 6 }], Populate::Read);
    ram.populate(&[Run { first: 3, count: 2 }, Run { first: 100, count: 3 }], Populate::Write);
    let (_, region) = &ram.windows()[0];
    let mut found = Vec::new();
    let tell = |first, count| found.extend(first..first + count);
    PageMap::open().unwrap().written(region, PAGE_SIZE, tell).unwrap();
    assert_eq!(found, [3, 4, 100, 101, 102]);
    let mut read = Vec::new();
    let mut tell = |first, count, is_written| {
        if is_written {
            read.extend(first..first + count);
        }
    };
    PageMap::open().unwrap().read_entries(region, PAGE_SIZE, &mut tell).unwrap();
    assert_eq!(read, found);
}

#[test]
fn touched_reports_every_range_once() {
    let size = 64 << 20;
    let file = file(size);
    let ram = Ram::map(&Arc::clone(&file).into(), ram_windows(size)).unwrap();
    let pages = size / PAGE_SIZE;
    ram.populate(&[Run { first: 0, count: pages as u32 }], Populate::Read);
    let written: Vec<u64> = (0..pages).filter(|page| page % 3 == 1).collect();
    for page in &written {
        ram.memory().write_slice(&[1], GuestAddress(page * PAGE_SIZE)).unwrap();
    }
    let touched = memory::touched(&ram).unwrap();
    assert_eq!(touched.written, runs_of(written));
    // The host may evict pages that were only read.
    validate_runs("read", &touched.read, pages).unwrap();
    let mut read = touched.read.iter().flat_map(|run| run.first..run.end());
    assert!(read.all(|page| page % 3 != 1));
}

/// A copy of written pages 0, 2, 3 and the last of a machine's memory, each filled with its number.
fn written_pages() -> DirtyPages {
    let ram = Ram::map(&file(MEMORY).into(), ram_windows(MEMORY)).unwrap();
    for page in [0, 2, 3, MEMORY / PAGE_SIZE - 1] {
        let content = [page.to_le_bytes()[0]; PAGE];
        ram.memory().write_slice(&content, GuestAddress(page * PAGE_SIZE)).unwrap();
    }
    let mut map = PageMap::open().unwrap();
    let mut dirty = DirtyPages::prepare(&ram, &mut map).unwrap();
    dirty.find(&ram, &mut map).unwrap();
    dirty.copy(&ram).unwrap();
    dirty
}

#[test]
fn pages_pass_through_a_file() {
    let expected = written_pages();
    let (runs, file) = written_pages().into_file().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4 * PAGE_SIZE);
    assert!(file.set_len(0).is_err());
    let passed = DirtyPages::from_file(runs, &file, MEMORY).unwrap();
    assert_eq!(passed.runs(), expected.runs());
    assert!(passed.iter().eq(expected.iter()));
    assert_eq!(passed.page(3), expected.page(3));
    let none = DirtyPages::from_file(Vec::new(), &file, MEMORY).unwrap();
    assert_eq!((none.count(), none.iter().count(), none.page(0)), (0, 0, None));
}

#[test]
fn more_pages_than_move_at_a_time_pass_through_a_file() {
    let size = 16 << 20;
    let ram = Ram::map(&file(size).into(), ram_windows(size)).unwrap();
    let pages: Vec<u64> = (0..size / PAGE_SIZE).filter(|page| page % 4 != 3).collect();
    for page in &pages {
        ram.memory().write_slice(&page.to_le_bytes(), GuestAddress(page * PAGE_SIZE)).unwrap();
    }
    let mut map = PageMap::open().unwrap();
    let mut dirty = DirtyPages::prepare(&ram, &mut map).unwrap();
    dirty.find(&ram, &mut map).unwrap();
    dirty.copy(&ram).unwrap();
    let (runs, file) = dirty.into_file().unwrap();
    let first = DirtyPages::from_file(runs, &file, size).unwrap();
    // What was passed can be passed on.
    let (runs, file) = first.into_file().unwrap();
    let second = DirtyPages::from_file(runs, &file, size).unwrap();
    let found = second.iter().map(|(page, content)| (page, content[..8].to_vec()));
    assert!(found.eq(pages.into_iter().map(|page| (page, page.to_le_bytes().to_vec()))));
}

#[test]
fn file_that_does_not_fit_its_pages_is_refused() {
    let (runs, file) = written_pages().into_file().unwrap();
    let refused = |runs: Vec<Run>, file: &File| {
        let error = DirtyPages::from_file(runs, file, MEMORY).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    };
    let end = MEMORY / PAGE_SIZE;
    let run = |first, count| Run { first, count };
    for wrong in [
        vec![run(0, 3)],
        vec![run(0, 5)],
        vec![run(0, 2), run(1, 2)],
        vec![run(4, 2), run(0, 2)],
        vec![run(0, 4), run(4, 0)],
        vec![run(end - 3, 4)],
        vec![run(u64::MAX, 4)],
    ] {
        refused(wrong, &file);
    }
    // A file whose maker could still change or shorten it.
    let open = tempfile::tempfile().unwrap();
    open.set_len(4 * PAGE_SIZE).unwrap();
    refused(runs.clone(), &open);
    let open = os::memory_file().unwrap();
    open.set_len(4 * PAGE_SIZE).unwrap();
    refused(runs, &open);
}

#[test]
fn prepare_with_unreadable_page_map_fails() {
    let ram = Ram::map(&file(MEMORY).into(), ram_windows(MEMORY)).unwrap();
    let mut map = PageMap::over(tempfile::tempfile().unwrap());
    let error = DirtyPages::prepare(&ram, &mut map).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn page_buffer_keeps_content_and_refuses_impossible_sizes() {
    let mut block = PageBuffer::new(0).unwrap();
    block.bytes_mut().fill(3);
    let before = block.bytes().len();
    block.resize(40 << 20).unwrap();
    assert!(block.bytes().len() >= 40 << 20);
    assert!(block.bytes()[..before].iter().all(|byte| *byte == 3));
    assert!(block.bytes()[before..].iter().all(|byte| *byte == 0));
    for size in [usize::MAX, usize::MAX / 2, 1 << 47] {
        assert!(PageBuffer::new(size).is_err());
        assert!(block.resize(size).is_err());
    }
    block.resize(1).unwrap();
    assert_eq!(block.bytes()[0], 3);
}

#[test]
fn fill_random_fills_the_whole_buffer() {
    let mut buffer = vec![0; 4096];
    fill_random(&mut buffer).unwrap();
    assert!(buffer.chunks(64).all(|chunk| chunk.iter().any(|byte| *byte != 0)));
    fill_random(&mut []).unwrap();
}

#[test]
fn restore_without_a_processor_feature_names_it() {
    let lacking =
        vec![FeatureWord { function: 7, index: 0, register: Register::Ebx, mask: 1 << 5 }];
    let vm = Arc::new(FakeVm::lacking(lacking));
    let error = refused(restore(&vm, snapshot(1)));
    let MachineError::Features { baseline: Baseline::V3, missing } = &error else {
        panic!("{error}")
    };
    assert_eq!(missing.0, ["avx2"]);
    assert_eq!(
        error.to_string(),
        "this host's processor lacks avx2, which the snapshot (x86-64-v3) uses"
    );
    assert!(vm.windows().is_empty(), "before anything is done");
    // Features that the guest does not use are not required.
    let mut lower = snapshot(1);
    arch_mut(&mut lower).processor = Processor::of(Baseline::V2);
    drop(restore(&vm, lower).unwrap());
}

#[test]
fn host_snapshot_needs_the_same_vendor() {
    let leaf = CpuidLeaf {
        function: 0,
        index: 0,
        indexed: false,
        eax: 1,
        ebx: u32::from_le_bytes(*b"Genu"),
        ecx: u32::from_le_bytes(*b"ntel"),
        edx: u32::from_le_bytes(*b"ineI"),
    };
    let mut own = snapshot(1);
    arch_mut(&mut own).vcpus[0].cpuid = vec![leaf];
    // A named baseline has an identity of its own.
    drop(restore(&Arc::default(), own.clone()).unwrap());
    arch_mut(&mut own).processor = Processor::of(Baseline::Host);
    let error = refused(restore(&Arc::default(), own));
    assert!(matches!(&error, MachineError::Vendor { found, .. } if found == "GenuineIntel"));
}

#[test]
fn capture_requires_features_that_guest_saw() {
    let machine = restore(&Arc::default(), snapshot(1)).unwrap();
    let captured = machine.capture().unwrap().snapshot;
    assert_eq!(arch(&captured).processor, Processor::of(Baseline::V3));
    let mut own = snapshot(1);
    arch_mut(&mut own).processor = Processor::of(Baseline::Host);
    arch_mut(&mut own).vcpus[0].cpuid = vec![CpuidLeaf {
        function: 7,
        index: 0,
        indexed: true,
        eax: 0,
        ebx: 1 << 5,
        ecx: 0,
        edx: 0,
    }];
    let machine = restore(&Arc::default(), own).unwrap();
    let captured = machine.capture().unwrap().snapshot;
    let avx2 = FeatureWord { function: 7, index: 0, register: Register::Ebx, mask: 1 << 5 };
    assert_eq!(
        arch(&captured).processor,
        Processor { baseline: Baseline::Host, features: vec![avx2] }
    );
}

/// The parts of a state that a reset must restore: all but the wall clock.
fn comparable(mut snapshot: Snapshot) -> Snapshot {
    snapshot.arch.set_realtime_ns(0);
    snapshot
}

/// All of guest memory.
fn memory_of(machine: &Machine) -> Vec<u8> {
    let mut bytes = vec![0; MEMORY as usize];
    machine.ram().memory().read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

#[test]
fn reset_machine_equals_restored_one() {
    let memory = file(MEMORY);
    for page in 0..MEMORY / PAGE_SIZE {
        memory.write_all_at(&[page.to_le_bytes()[0]; PAGE], page * PAGE_SIZE).unwrap();
    }
    let at = slot_address(0);
    let mut script = vec![
        // Selects half of a feature word, which the registers keep.
        Step::Write { address: at + 0x14, data: vec![1, 0, 0, 0] },
        Step::Write { address: at + 0x70, data: vec![1, 0, 0, 0] },
        Step::Write { address: slot_address(1) + 0x30, data: vec![5, 0, 0, 0] },
        Step::Write { address: slot_address(ROOT_SLOT) + 0x70, data: vec![3, 0, 0, 0] },
        Step::Write { address: IOAPIC_START, data: vec![0x13, 0, 0, 0] },
        Step::Write { address: IOAPIC_START + 0x10, data: vec![0x31, 0, 0, 0] },
        Step::PortWrite { port: SERIAL_PORT + 7, data: vec![9] },
        Step::PortWrite { port: SERIAL_PORT, data: b"secret".to_vec() },
    ];
    // Writes the first page, some kept ones, a run with a gap, and the last page.
    for page in [0, 3, 4, 5, 9, 10, 12, MEMORY / PAGE_SIZE - 1] {
        script.push(Step::Store { address: page * PAGE_SIZE + 7, data: vec![0xee; 100] });
    }
    script.push(Step::Load { address: 20 * PAGE_SIZE });
    let mut given = with_disk(snapshot(2));
    given.working_set.written =
        vec![Run { first: 4, count: 2 }, Run { first: 10, count: 1 }, Run { first: 30, count: 1 }];
    let vm = Arc::new(FakeVm::with_script(script));
    let machine = restore_from(&vm, given.clone(), Arc::clone(&memory)).unwrap();
    let fresh = comparable(machine.capture_live().unwrap().snapshot);
    let content = memory_of(&machine);
    for turn in 1..=3 {
        machine.run();
        vm.wait_idle(2 * turn);
        assert_ne!(comparable(machine.capture_live().unwrap().snapshot), fresh);
        assert_ne!(memory_of(&machine), content);
        assert_eq!(machine.console(), b"secret");
        vm.set_clock(&Clock { monotonic_ns: 5, realtime_ns: 0, tsc_khz: 0 }).unwrap();
        machine.reset(Ends::default(), &mut Timings::start()).unwrap();
        assert_eq!(vm.inside(), 0);
        assert_eq!(comparable(machine.capture_live().unwrap().snapshot), fresh);
        // Kept pages stay written, and so do those that the guest writes each time.
        let (touched, last) = (memory::touched(machine.ram()).unwrap(), MEMORY / PAGE_SIZE - 1);
        assert_eq!(touched.written, runs_of([0, 3, 4, 5, 9, 10, 12, 30, last]));
        assert!(memory_of(&machine) == content);
        assert_eq!(machine.console(), b"");
    }
}

#[test]
fn roll_back_restores_pages_of_the_high_window() {
    // More RAM than fits below the device hole.
    let size = LOW_RAM_END + (4 << 20);
    let memory = file(size);
    let (low, high) = (LOW_RAM_END / PAGE_SIZE - 1, LOW_RAM_END / PAGE_SIZE);
    for page in [low, high, high + 5] {
        memory.write_all_at(&page.to_le_bytes(), page * PAGE_SIZE).unwrap();
    }
    let files: MemoryFiles = memory.into();
    let (ram, pristine) = (
        Ram::map(&files, ram_windows(size)).unwrap(),
        Ram::map(&files, ram_windows(size)).unwrap(),
    );
    let addresses = [
        LOW_RAM_END - PAGE_SIZE,
        HIGH_RAM_START,
        HIGH_RAM_START + 5 * PAGE_SIZE,
        HIGH_RAM_START + 6 * PAGE_SIZE,
    ];
    for address in addresses {
        ram.memory().write_obj(0xeeee_eeee_eeee_eeee_u64, GuestAddress(address)).unwrap();
    }
    let (kept, mut spare) = ([Run { first: low, count: 2 }], SparePages::default());
    memory::roll_back(&ram, &pristine, &kept, Some(&mut spare)).unwrap();
    let found = addresses.map(|at| ram.memory().read_obj::<u64>(GuestAddress(at)).unwrap());
    assert_eq!(found, [low, high, high + 5, 0]);
    assert_eq!(memory::touched(&ram).unwrap().written, runs_of([low, high, high + 5, high + 6]));
    // After two checks that found them unchanged, only the pages of the working set are left.
    (0..16).for_each(|_| memory::roll_back(&ram, &pristine, &kept, Some(&mut spare)).unwrap());
    assert_eq!(memory::touched(&ram).unwrap().written, runs_of([low, high]));
}

#[test]
fn reset_after_guest_shutdown_fails() {
    let vm = Arc::new(FakeVm::with_script(vec![Step::Shutdown]));
    let machine = restore(&vm, snapshot(2)).unwrap();
    machine.run();
    within(move || {
        while machine.failure().is_none() {
            std::thread::yield_now();
        }
        let error = machine.reset(Ends::default(), &mut Timings::start()).unwrap_err();
        assert!(matches!(error, MachineError::Ended { source: GuestFailure::Shutdown }));
    });
}

#[test]
fn reset_refused_by_vcpu_fails() {
    for index in 0..2 {
        let vm = Arc::new(FakeVm::refusing(Refusal::Reset(index)));
        let machine = restore(&vm, snapshot(2)).unwrap();
        machine.run();
        within(move || {
            let error = machine.reset(Ends::default(), &mut Timings::start()).unwrap_err();
            assert!(matches!(error, MachineError::Hypervisor { .. }), "{error:?}");
        });
        assert_eq!(vm.alive(), 0);
    }
}

/// A snapshot with an echo in a free slot, whose driver offers one request: three bytes to return.
fn with_echo(mut snapshot: Snapshot) -> Snapshot {
    snapshot.slots[usize::from(ECHO_SLOT)] = fresh_echo();
    let Slot::Vsock(transport, _) = &mut snapshot.slots[usize::from(ECHO_SLOT)] else {
        panic!("no echo")
    };
    transport.driver_features = 1 << 32;
    transport.status = 0xf;
    let queue = &mut transport.queues[0];
    (queue.descriptors, queue.available, queue.used) = (0x2_0000, 0x2_1000, 0x2_2000);
    queue.ready = true;
    snapshot
}

const ECHO_SLOT: u8 = 3;

/// A guest's steps that make the echo return three bytes, as request number `index`.
fn ask_echo(index: u8) -> Vec<Step> {
    let mut table = Vec::new();
    for (address, flags, next) in [(0x2_3000_u64, 1_u16, 1_u16), (0x2_4000, 2, 0)] {
        table.extend(address.to_le_bytes());
        table.extend(3_u32.to_le_bytes());
        table.extend(flags.to_le_bytes());
        table.extend(next.to_le_bytes());
    }
    vec![
        Step::Store { address: 0x2_0000, data: table },
        Step::Store { address: 0x2_3000, data: b"abc".to_vec() },
        // Every entry of the available ring names the first descriptor.
        Step::Store { address: 0x2_1002, data: vec![index + 1, 0] },
        Step::Write { address: slot_address(ECHO_SLOT) + 0x50, data: vec![0; 4] },
        Step::Load { address: 0x2_4002 },
    ]
}

#[test]
fn new_device_on_the_list_survives_capture_restore_and_reset() {
    let echo = |machine: &Machine| {
        let captured = machine.capture_live().unwrap().snapshot;
        (echoes(&captured.slots[usize::from(ECHO_SLOT)]).unwrap(), captured)
    };
    let vm = Arc::new(FakeVm::with_script(ask_echo(0)));
    let machine = restore(&vm, with_echo(snapshot(1))).unwrap();
    machine.run();
    vm.wait_idle(1);
    assert_eq!(vm.answers(), [b"c"]);
    let (count, captured) = echo(&machine);
    assert_eq!(count, 3);

    let vm = Arc::new(FakeVm::with_script(ask_echo(1)));
    let copy = restore(&vm, captured.clone()).unwrap();
    copy.run();
    vm.wait_idle(1);
    assert_eq!(vm.answers(), [b"c"]);
    assert_eq!(echo(&copy).0, 6);

    copy.reset(Ends::default(), &mut Timings::start()).unwrap();
    let (count, after) = echo(&copy);
    assert_eq!(count, 3);
    assert_eq!(after.slots, captured.slots);
}

/// Answers nothing.
#[derive(Debug)]
struct Silent;

impl FileServer for Silent {
    fn answer(&self, _: &[u8], _: usize) -> Vec<u8> {
        Vec::new()
    }

    fn known(&self) -> Known {
        Known::default()
    }
}

fn restore_with(snapshot: Snapshot, shares: &[(u8, &str)]) -> Result<Machine, MachineError> {
    let share = |&(slot, target): &(u8, &str)| HostShare {
        slot,
        target: target.into(),
        server: Arc::new(Silent),
    };
    let shares = shares.iter().map(share).collect();
    let parts = Restore { shares, ..of_files(snapshot, file(MEMORY), Vec::new()) };
    let vm: Arc<dyn Vm> = Arc::new(FakeVm::default());
    within(move || Machine::restore_on(vm, parts, &mut Timings::start()))
}

#[test]
fn folders_get_empty_slots_and_keep_them() {
    let given = snapshot(1);
    let slots = share_slots(&given, &["/a", "/b"]).unwrap();
    assert_eq!(slots, [FIRST_SHARE_SLOT, FIRST_SHARE_SLOT + 1]);
    let machine = restore_with(given, &[(slots[0], "/a"), (slots[1], "/b")]).unwrap();
    let captured = machine.capture().unwrap().snapshot;
    let Slot::Share(_, share) = &captured.slots[usize::from(slots[1])] else { panic!() };
    assert_eq!(share.target, "/b");
    assert_eq!(&share.tag[..], format!("{:\0<36}", share_tag(slots[1])).as_bytes());
    // In another order, and with one more.
    let again = share_slots(&captured, &["/c", "/b", "/a"]).unwrap();
    assert_eq!(again, [FIRST_SHARE_SLOT + 2, slots[1], slots[0]]);
    let shares = [(again[0], "/c"), (again[1], "/b"), (again[2], "/a")];
    restore_with(captured.clone(), &shares).unwrap();
    // Without one that the guest has.
    let error = share_slots(&captured, &["/a", "/c"]).unwrap_err();
    assert!(format!("{error:?}").contains("\"/b\""), "{error:?}");
    let error = refused(restore_with(captured.clone(), &[(slots[0], "/a")]));
    assert!(format!("{error:?}").contains("\"/b\""), "{error:?}");
    // With another in its place.
    let shares = [(slots[0], "/a"), (slots[1], "/c")];
    let error = refused(restore_with(captured, &shares));
    assert!(matches!(error, MachineError::Snapshot { .. }), "{error:?}");
}

#[test]
fn folders_beyond_their_slots_are_refused() {
    let given = snapshot(1);
    let targets: Vec<String> = (0..=MAX_SHARES).map(|number| format!("/{number}")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let most = usize::from(MAX_SHARES);
    assert_eq!(share_slots(&given, &targets[..most]).unwrap().len(), most);
    let error = share_slots(&given, &targets).unwrap_err();
    assert!(matches!(error, MachineError::TooManyShares { most: MAX_SHARES }), "{error:?}");
    assert_eq!(most, wire::MAX_SHARES);
    let error = refused(restore_with(given, &[(VSOCK_SLOT, "/a")]));
    assert!(matches!(error, MachineError::Snapshot { .. }), "{error:?}");
}

#[test]
fn reset_gives_a_folder_to_its_next_user() {
    let machine = restore_with(snapshot(1), &[(FIRST_SHARE_SLOT, "/a")]).unwrap();
    let share = |target: &str| HostShare {
        slot: FIRST_SHARE_SLOT,
        target: target.into(),
        server: Arc::new(Silent),
    };
    machine
        .reset(Ends { shares: &[share("/a")], ..Ends::default() }, &mut Timings::start())
        .unwrap();
    let error = machine.reset(Ends::default(), &mut Timings::start()).unwrap_err();
    assert!(format!("{error:?}").contains("\"/a\""), "{error:?}");
}
