use std::sync::mpsc;
use std::thread;

use supermachine_formats::snapshot::HypervisorFamily;
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::arch::aarch64::{Counter, Gic, Power, Vcpu as VcpuState};

use super::super::cpu::Id;
use super::super::stand_in::{self, ERROR, HZ, Session, Step};
use super::super::{processor, registers};
use super::*;
use crate::backend::{Exit, Kick};

const ENTRY: u64 = 0x4008_0000;

/// The state of a machine that was never run.
fn boot(vcpus: u64) -> State {
    let mut core = registers::core_after_reset();
    core.pc = ENTRY;
    let others = (1..vcpus).map(|mpidr| VcpuState::after_reset(mpidr, Power::Off));
    let first = VcpuState { core: Some(core), ..VcpuState::after_reset(0, Power::On) };
    State {
        processor: Processor::of(Baseline::Armv8_2),
        vcpus: [first].into_iter().chain(others).collect(),
        gic: Gic::reset(64),
        counter: Counter::after_reset(),
    }
}

/// A firmware call with these registers.
fn call(registers: [u64; 4]) -> Vec<Step> {
    let set = registers.into_iter().enumerate().map(|(index, value)| Step::set(index, value));
    set.chain([Step::call()]).collect()
}

/// Creates and restores the vCPUs of a machine on this thread.
fn restored(vm: &HvfVm, state: &mut State) -> Vec<HvfVcpu> {
    vm.complete(state);
    let clock = state.counter.clone();
    let create = |(index, state): (u16, &VcpuState)| {
        let mut vcpu = vm.create_vcpu(index).unwrap();
        vcpu.restore(state, &clock).unwrap();
        vcpu
    };
    let vcpus = (0..).zip(&state.vcpus).map(create).collect();
    vm.restore_interrupts(state).unwrap();
    vcpus
}

#[test]
fn set_up_is_in_the_frameworks_order() {
    let session = stand_in::begin();
    let host = session.host();
    session.log();
    let vm = HvfVm::new(host).unwrap();
    vm.map(0x4000_0000, stand_in::region(1), Access::ReadWrite).unwrap();
    drop(vm.create_vcpu(0).unwrap());
    let log = session.log();
    let steps = ["hv_vm_create", "hv_gic_create", "hv_vm_map", "hv_vcpu_create"];
    let places = steps.map(|step| log.iter().position(|entry| *entry == step).unwrap());
    assert!(places.is_sorted(), "{log:?}");
}

#[test]
fn vm_that_cannot_be_completed_is_destroyed() {
    let session = stand_in::begin();
    let host = session.host();
    session.lack("hv_gic_create");
    assert!(HvfVm::new(Arc::clone(&host)).is_err());
    session.with(|world| world.lacking.clear());
    let vm = HvfVm::new(host).unwrap();
    session.refuse("hv_gic_get_redistributor_base", ERROR);
    assert!(vm.create_vcpu(0).is_err());
}

#[test]
fn guest_that_was_never_run_sees_its_baseline_and_the_capture_says_so() {
    let session = stand_in::begin();
    let vm = session.vm();
    let mut state = boot(1);
    vm.check(&state).unwrap();
    let mut vcpus = restored(&vm, &mut state);
    let saved = vcpus[0].save().unwrap();
    // Armv8.2's ID_AA64ISAR0_EL1, although the host has more.
    assert_eq!(saved.shown.register(0xc030), Some(0x0000_1000_1021_1120));
    assert_eq!(saved.shown.registers, state.processor.registers);
    let required = vm.required(&Processor::of(Baseline::Armv8_2), &[saved]);
    assert_eq!((required.baseline, required.midr), (Baseline::Armv8_2, 0x610f_0000));
    assert_eq!(required.registers, state.processor.registers);
}

#[test]
fn captured_machine_continues_in_another_vm() {
    let session = stand_in::begin();
    let (host, vm) = (session.host(), session.vm());
    let mut state = boot(2);
    let mut vcpus = restored(&vm, &mut state);
    session.with(|world| {
        world.gic.as_mut().unwrap().state = b"GIC in use".to_vec();
        world.now += 1000;
    });
    let saved: Vec<SavedVcpu> = vcpus.iter_mut().map(|vcpu| vcpu.save().unwrap()).collect();
    let interrupts = vm.save_interrupts().unwrap();
    let expected = Gic::Opaque { family: HypervisorFamily::Hvf, state: b"GIC in use".to_vec() };
    assert_eq!(interrupts.gic, expected);
    let processor = vm.required(&state.processor, &saved);
    let lines = crate::arch::aarch64::gic::Lines::restore(Arc::new(vm), &state);
    let captured = crate::arch::aarch64::captured_state(
        processor,
        saved,
        (&lines, interrupts),
        (crate::arch::aarch64::ClockReading, 7),
    );
    let mut captured = captured.aarch64().unwrap().clone();
    assert_eq!(captured.counter, Counter { value: 1000, frequency_hz: HZ, realtime_ns: 7 });
    assert!(captured.vcpus.iter().all(|vcpu| vcpu.cpu_interface.len() == 9));
    assert_eq!(captured.vcpus[1].power, Power::Off);
    drop((vcpus, lines));

    let vm = HvfVm::new(host).unwrap();
    vm.check(&captured).unwrap();
    session.with(|world| world.now = 5);
    let mut vcpus = restored(&vm, &mut captured);
    for (vcpu, expected) in vcpus.iter_mut().zip(&captured.vcpus) {
        let saved = vcpu.save().unwrap();
        assert_eq!((&saved.state, saved.counter), (expected, (1000, HZ)));
    }
    assert_eq!(vm.save_interrupts().unwrap().gic, captured.gic);
    // In place.
    session.with(|world| world.gic.as_mut().unwrap().is_live = true);
    vm.restore_interrupts(&captured).unwrap();
}

#[test]
fn interrupts_of_another_number_of_vcpus_are_refused() {
    let session = stand_in::begin();
    let vm = session.vm();
    let mut state = boot(2);
    let _vcpus = restored(&vm, &mut state);
    for vcpus in [0, 1, 3] {
        let refused =
            vm.restore_interrupts(&State { vcpus: boot(3).vcpus[..vcpus].to_vec(), ..boot(1) });
        assert!(refused.unwrap_err().to_string().contains("as many vCPUs"), "{vcpus}");
    }
}

#[test]
fn other_frequency_is_refused_with_both() {
    let session = stand_in::begin();
    let vm = session.vm();
    let mut state = boot(1);
    state.counter.frequency_hz = 1_000_000_000;
    let expected = Mismatch::CounterFrequency { found: 1_000_000_000, host: HZ };
    assert_eq!(vm.check(&state), Err(expected));
}

#[test]
fn delivered_interrupt_is_an_edge() {
    let session = stand_in::begin();
    let vm = session.vm();
    vm.deliver(40);
    let sent = session.with(|world| world.gic.as_ref().unwrap().sent.clone());
    assert_eq!(sent, [(40, true), (40, false)]);
}

/// A vCPU on a thread of its own, which runs until it is to stop.
struct Running {
    id: Id,
    kicker: Box<dyn Kick>,
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<usize>,
}

impl Running {
    /// Creates, restores and runs a vCPU.
    fn start(vm: &Arc<HvfVm>, state: VcpuState, index: u16) -> Self {
        let ((stop, stopped), (send, receive)) = (mpsc::channel(), mpsc::channel());
        let vm = Arc::clone(vm);
        let thread = thread::spawn(move || {
            let mut vcpu = vm.create_vcpu(index).unwrap();
            vcpu.restore(&state, &Counter::after_reset()).unwrap();
            send.send((vcpu.kicker(), vcpu.id())).unwrap();
            let mut kicks = 0;
            while stopped.try_recv().is_err() {
                let exit = vcpu.run().unwrap();
                assert!(matches!(exit, Exit::Kicked), "{exit:?}");
                kicks += 1;
            }
            kicks
        });
        let (kicker, id) = receive.recv().unwrap();
        Self { id, kicker, stop, thread }
    }

    /// Stops the thread and destroys the vCPU. Returns how often it was kicked out, and the handle.
    fn end(self) -> (usize, Box<dyn Kick>) {
        self.stop.send(()).unwrap();
        self.kicker.kick();
        (self.thread.join().unwrap(), self.kicker)
    }
}

fn threads(session: &Session, vcpus: u64) -> Vec<Running> {
    let vm = Arc::new(HvfVm::new(Arc::new(processor::ask(HZ).unwrap())).unwrap());
    let states = (0..).zip(boot(vcpus).vcpus);
    let running = states.map(|(index, state)| Running::start(&vm, state, index)).collect();
    session.log();
    running
}

#[test]
fn vcpu_starts_another_on_its_thread() {
    let session = stand_in::begin();
    let running = threads(&session, 3);
    // The others wait outside the guest.
    session.wait_until(|world| world.vcpus[&running[0].id].is_inside);
    assert!(session.with(|world| running[1..].iter().all(|one| world.vcpus[&one.id].runs == 0)));
    session.script(running[0].id, call([0xc400_0003, 2, 0x4010_0000, 9]));
    session.wait_until(|world| world.vcpus[&running[2].id].is_inside);
    session.vcpu(running[2].id, |vcpu| {
        assert_eq!((vcpu.registers[0], vcpu.pc()), (9, 0x4010_0000));
    });
    session.with(|world| assert_eq!(world.vcpus[&running[1].id].runs, 0));
    // AFFINITY_INFO: the one is on, the other off.
    for (affinity, expected) in [(2, 0), (1, 1)] {
        session.script(running[0].id, call([0xc400_0004, affinity, 0, 0]));
        session.wait_until(|world| {
            let vcpu = &world.vcpus[&running[0].id];
            vcpu.script.is_empty() && vcpu.is_inside
        });
        assert_eq!(session.vcpu(running[0].id, |vcpu| vcpu.registers[0]), expected);
    }
    running.into_iter().for_each(|one| drop(one.end()));
}

#[test]
fn vcpu_that_turned_itself_off_is_started_again() {
    let session = stand_in::begin();
    let running = threads(&session, 2);
    let start = |entry| {
        session.script(running[0].id, call([0xc400_0003, 1, entry, 0]));
        session.wait_until(|world| {
            let vcpu = &world.vcpus[&running[1].id];
            vcpu.is_inside && vcpu.pc() == entry
        });
    };
    start(0x4010_0000);
    session.script(running[1].id, call([0x8400_0002, 0, 0, 0]));
    session.wait_until(|world| !world.vcpus[&running[1].id].is_inside);
    // It is off once AFFINITY_INFO says so; a kernel asks until then too.
    loop {
        session.script(running[0].id, call([0xc400_0004, 1, 0, 0]));
        session.wait_until(|world| {
            let vcpu = &world.vcpus[&running[0].id];
            vcpu.script.is_empty() && vcpu.is_inside
        });
        if session.vcpu(running[0].id, |vcpu| vcpu.registers[0]) == 1 {
            break;
        }
    }
    start(0x4020_0000);
    running.into_iter().for_each(|one| drop(one.end()));
}

#[test]
fn kick_interrupts_a_run_and_the_next_one_if_none_is_running() {
    let session = stand_in::begin();
    let [running] = <[Running; 1]>::try_from(threads(&session, 1)).ok().unwrap();
    for runs in 1..=20 {
        session.wait_until(|world| {
            let vcpu = &world.vcpus[&running.id];
            vcpu.is_inside && vcpu.runs >= runs
        });
        running.kicker.kick();
    }
    let (kicks, _) = running.end();
    assert!(kicks >= 20, "{kicks}");
}

#[test]
fn kick_before_the_first_run_is_not_lost() {
    let session = stand_in::begin();
    let vm = session.vm();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    vcpu.restore(&boot(1).vcpus[0], &Counter::after_reset()).unwrap();
    vcpu.kicker().kick();
    assert!(matches!(vcpu.run().unwrap(), Exit::Kicked));
    assert_eq!(session.vcpu(vcpu.id(), |vcpu| vcpu.runs), 0);
}

#[test]
fn kick_of_a_vcpu_that_is_gone_asks_the_framework_for_nothing() {
    let session = stand_in::begin();
    let running = threads(&session, 2);
    let kickers: Vec<_> = running.into_iter().map(|one| one.end().1).collect();
    session.log();
    kickers.iter().for_each(|kicker| kicker.kick());
    assert_eq!(session.log(), [""; 0]);
}

#[test]
fn vm_lives_as_long_as_a_vcpu_runs() {
    let session = stand_in::begin();
    let vm = session.vm();
    let region = stand_in::region(1);
    let memory = Arc::downgrade(&region);
    vm.map(0x4000_0000, region, Access::ReadWrite).unwrap();
    let vm = Arc::new(vm);
    let running = Running::start(&vm, boot(1).vcpus.remove(0), 0);
    drop(vm);
    session.wait_until(|world| world.vcpus[&running.id].is_inside);
    assert!(memory.upgrade().is_some() && session.with(|world| world.has_vm));
    running.end();
    assert!(memory.upgrade().is_none() && !session.with(|world| world.has_vm));
}

#[test]
fn call_from_another_thread_is_refused() {
    let session = stand_in::begin();
    let [running] = <[Running; 1]>::try_from(threads(&session, 1)).ok().unwrap();
    // What the stand-in is for: the backend never does this.
    let mut value = 0;
    // SAFETY: the vCPU exists, and the result has room.
    let result = unsafe {
        applevisor_sys::hv_vcpu_get_reg(running.id, applevisor_sys::hv_reg_t::X0, &raw mut value)
    };
    assert_eq!(result, ERROR.cast_signed());
    running.end();
}

#[test]
fn interrupt_and_kick_interrupt_a_wait() {
    use std::time::{Duration, Instant};

    use super::super::presence::{Kicker, Presence};

    let session = stand_in::begin();
    let vm = session.vm();
    let waiting = Arc::new(Presence::new(7, 1));
    waiting.leave();
    vm.shared.peers.add(Arc::clone(&waiting));
    let long = Duration::from_secs(600);
    let begin = Instant::now();
    // Before the wait and during it.
    vm.deliver(40);
    waiting.idle(long);
    thread::scope(|scope| {
        let other = Arc::clone(&waiting);
        let waiter = scope.spawn(move || other.idle(long));
        while !waiter.is_finished() {
            vm.deliver(40);
        }
    });
    Kicker(Arc::clone(&waiting)).kick();
    waiting.idle(long);
    assert!(waiting.take_kick() && !waiting.take_kick());
    assert!(begin.elapsed() < long);
    // Without either it is over in time.
    waiting.idle(Duration::ZERO);
}
