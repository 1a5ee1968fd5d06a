use std::thread;

use super::super::exception::RESET_PSTATE;
use super::super::stand_in::{self, ERROR, HZ, Session, Step};
use super::super::vm::HvfVm;
use super::*;
use crate::backend::hvf::cpu::Id;
use supermachine_formats::snapshot::arch::aarch64::Timer;

/// A load of W5, which is a device's.
const LOAD: u64 = 0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 5 << 16 | 7;
/// A store of it.
const STORE: u64 = LOAD | 1 << 6;
const DEVICE: u64 = 0x0a00_0100;
const ENTRY: u64 = 0x4008_0000;
/// Registers of the stand-in.
const PC: usize = 31;
const CPSR: usize = 34;

/// A machine with one vCPU that is about to run for the first time.
struct Machine {
    vcpu: HvfVcpu,
    vm: HvfVm,
    session: Session,
}

impl Machine {
    fn new() -> Self {
        let session = stand_in::begin();
        let vm = session.vm();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        vcpu.restore(&boot(), &Counter::after_reset()).unwrap();
        Self { vcpu, vm, session }
    }

    fn id(&self) -> Id {
        self.vcpu.id()
    }

    /// Lets the vCPU do this before it waits to be kicked.
    fn script(&self, steps: impl IntoIterator<Item = Step>) {
        self.session.script(self.id(), steps);
    }

    fn register(&self, index: usize) -> u64 {
        self.session.vcpu(self.id(), |vcpu| vcpu.registers[index])
    }

    fn system(&self, encoding: u16) -> u64 {
        self.session.vcpu(self.id(), |vcpu| vcpu.system[&encoding])
    }

    /// Runs until the script is at its end.
    fn run_to_end(&mut self) {
        self.script([kicked()]);
        let exit = self.vcpu.run().unwrap();
        assert!(matches!(exit, Exit::Kicked), "{exit:?}");
    }
}

/// An exit that another thread asked for.
fn kicked() -> Step {
    let exit = super::super::cpu::RawExit {
        reason: 0,
        syndrome: 0,
        virtual_address: 0,
        physical_address: 0,
    };
    Step::Exit(exit)
}

/// The state of the vCPU that boots a kernel.
fn boot() -> State {
    let mut core = registers::core_after_reset();
    core.pc = ENTRY;
    core.x[0] = 0x4400_0000;
    State { core: Some(core), ..State::after_reset(0, SavedPower::On) }
}

/// A move from (to) X9 to (from) a system register.
fn register_access(encoding: u16, is_read: bool) -> Step {
    let field = |shift: u32, mask: u16| u64::from(encoding >> shift & mask);
    let detail = field(14, 3) << 20
        | field(0, 7) << 17
        | field(11, 7) << 14
        | field(7, 15) << 10
        | 9 << 5
        | field(3, 15) << 1
        | u64::from(is_read);
    Step::exception(0x18 << 26 | 1 << 25 | detail, 0)
}

/// A firmware call with these registers.
fn call(function: u64, arguments: [u64; 3]) -> Vec<Step> {
    let registers = [function, arguments[0], arguments[1], arguments[2]];
    let set = registers.into_iter().enumerate().map(|(index, value)| Step::set(index, value));
    set.chain([Step::call()]).collect()
}

#[test]
fn read_of_a_device_is_completed_once_by_the_next_run() {
    let mut machine = Machine::new();
    machine.script([Step::set(5, 0xffff_ffff_ffff_ffff), Step::exception(LOAD, DEVICE)]);
    let Exit::Read { address, data } = machine.vcpu.run().unwrap() else { panic!() };
    assert_eq!((address, data.len()), (DEVICE, 4));
    data.copy_from_slice(&0x8765_4321_u32.to_le_bytes());
    // Not before.
    assert_eq!((machine.register(5), machine.register(PC)), (u64::MAX, ENTRY));
    machine.run_to_end();
    assert_eq!((machine.register(5), machine.register(PC)), (0x8765_4321, ENTRY + 4));
    machine.script([Step::set(5, 7)]);
    machine.run_to_end();
    assert_eq!((machine.register(5), machine.register(PC)), (7, ENTRY + 4));
}

#[test]
fn read_is_completed_before_a_kick_counts() {
    let mut machine = Machine::new();
    machine.script([Step::exception(LOAD, DEVICE)]);
    let Exit::Read { data, .. } = machine.vcpu.run().unwrap() else { panic!() };
    data.fill(1);
    machine.vcpu.kicker().kick();
    let before = machine.session.vcpu(machine.id(), |vcpu| vcpu.runs);
    assert!(matches!(machine.vcpu.run().unwrap(), Exit::Kicked));
    assert_eq!((machine.register(5), machine.register(PC)), (0x0101_0101, ENTRY + 4));
    assert_eq!(machine.session.vcpu(machine.id(), |vcpu| vcpu.runs), before);
}

#[test]
fn read_is_completed_before_a_save_and_not_again() {
    let mut machine = Machine::new();
    machine.script([Step::exception(LOAD, DEVICE)]);
    let Exit::Read { data, .. } = machine.vcpu.run().unwrap() else { panic!() };
    data.fill(1);
    for _ in 0..2 {
        let core = machine.vcpu.save().unwrap().state.core.unwrap();
        assert_eq!((core.x[5], core.pc), (0x0101_0101, ENTRY + 4));
    }
    machine.run_to_end();
    assert_eq!(machine.register(PC), ENTRY + 4);
}

#[test]
fn read_in_progress_is_dropped_by_a_reset() {
    let mut machine = Machine::new();
    let original = machine.vcpu.save().unwrap().state;
    machine.script([Step::exception(LOAD, DEVICE)]);
    let Exit::Read { data, .. } = machine.vcpu.run().unwrap() else { panic!() };
    data.fill(1);
    machine.vcpu.reset(&original, true).unwrap();
    machine.run_to_end();
    assert_eq!((machine.register(5), machine.register(PC)), (0, ENTRY));
}

#[test]
fn write_of_a_device_has_the_register_in_its_width() {
    let mut machine = Machine::new();
    machine.script([Step::set(5, 0x1122_3344_5566_7788)]);
    for (size, expected) in [
        (0, &[0x88][..]),
        (1, &[0x88, 0x77]),
        (2, &[0x88, 0x77, 0x66, 0x55]),
        (3, &[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]),
    ] {
        let syndrome = STORE & !(3 << 22) | size << 22;
        machine.script([Step::exception(syndrome, DEVICE)]);
        let Exit::Write { address: DEVICE, data } = machine.vcpu.run().unwrap() else { panic!() };
        assert_eq!(data, expected);
    }
    machine.run_to_end();
    assert_eq!(machine.register(PC), ENTRY + 4 * 4);
}

#[test]
fn register_31_is_zero_and_loses_what_is_loaded() {
    let mut machine = Machine::new();
    let all = 31 << 16;
    machine.script([Step::exception(STORE | all, DEVICE), Step::exception(LOAD | all, DEVICE)]);
    let Exit::Write { data, .. } = machine.vcpu.run().unwrap() else { panic!() };
    assert_eq!(data, [0; 4]);
    let Exit::Read { data, .. } = machine.vcpu.run().unwrap() else { panic!() };
    data.fill(1);
    let before: Vec<u64> = (0..31).map(|index| machine.register(index)).collect();
    machine.run_to_end();
    assert_eq!((0..31).map(|index| machine.register(index)).collect::<Vec<_>>(), before);
    assert_eq!(machine.register(PC), ENTRY + 8);
}

#[test]
fn data_of_a_read_begins_as_zero() {
    let mut machine = Machine::new();
    machine.script([Step::set(5, u64::MAX), Step::exception(STORE, DEVICE)]);
    assert!(matches!(machine.vcpu.run().unwrap(), Exit::Write { .. }));
    machine.script([Step::exception(LOAD, DEVICE)]);
    let Exit::Read { data, .. } = machine.vcpu.run().unwrap() else { panic!() };
    assert_eq!(data, [0; 4]);
}

#[test]
fn access_that_cannot_be_decoded_fails_with_the_syndrome() {
    let mut machine = Machine::new();
    let syndrome = LOAD & !(1 << 24);
    machine.script([Step::exception(syndrome, DEVICE)]);
    let Exit::Failed { reason, code } = machine.vcpu.run().unwrap() else { panic!() };
    assert!(reason.contains("not a load or store"));
    assert_eq!(code, syndrome);
}

#[test]
fn framework_that_does_not_run_the_guest_fails_with_its_code() {
    let mut machine = Machine::new();
    machine.script([Step::Fail(ERROR)]);
    let Exit::Failed { reason, code } = machine.vcpu.run().unwrap() else { panic!() };
    assert_eq!((reason, code), ("Hypervisor.framework does not run the vCPU", ERROR.into()));
}

#[test]
fn debug_registers_and_the_os_lock_are_served_in_place() {
    let mut machine = Machine::new();
    let (breakpoint, status) = (0x8004, 0x808c);
    machine.script([Step::set(9, 5), register_access(breakpoint, true)]);
    machine.run_to_end();
    assert_eq!((machine.register(9), machine.register(PC)), (0, ENTRY + 4));
    machine.script([
        Step::set(9, 5),
        register_access(breakpoint, false),
        register_access(OS_LOCK, false),
        register_access(status, true),
    ]);
    machine.run_to_end();
    assert_eq!((machine.register(9), machine.register(PC)), (0b1010, ENTRY + 16));
    assert_eq!(machine.system(breakpoint), 0);
}

#[test]
fn unknown_system_register_is_an_undefined_instruction() {
    let mut machine = Machine::new();
    let vectors = |vcpu: &mut stand_in::Vcpu| {
        vcpu.system.insert(0xc600, 0xffff_8000_0801_0000);
        vcpu.registers[CPSR] = 0x6000_0005;
    };
    // PMCR_EL0.
    machine.script([Step::Do(Box::new(vectors)), register_access(0xdce0, true)]);
    machine.run_to_end();
    assert_eq!(machine.register(PC), 0xffff_8000_0801_0200);
    // SCTLR_EL1 keeps PAN, and BTI's type is cleared.
    assert_eq!(machine.register(CPSR), 0x6000_03c5);
    // ELR_EL1, SPSR_EL1, ESR_EL1.
    let saved = [0xc201, 0xc200, 0xc290].map(|register| machine.system(register));
    assert_eq!(saved, [ENTRY, 0x6000_0005, 1 << 25]);
}

#[test]
fn cache_maintenance_and_wfe_continue_at_the_next_instruction() {
    let mut machine = Machine::new();
    let maintenance = LOAD & !(1 << 24) | 1 << 8 | 1 << 6;
    machine
        .script([Step::exception(maintenance, DEVICE), Step::exception(1 << 26 | 1 << 25 | 1, 0)]);
    machine.run_to_end();
    assert_eq!(machine.register(PC), ENTRY + 8);
}

#[test]
fn wfi_continues_at_the_next_instruction_after_a_wait() {
    let mut machine = Machine::new();
    machine.script([Step::exception(1 << 26 | 1 << 25, 0)]);
    machine.run_to_end();
    assert_eq!(machine.register(PC), ENTRY + 4);
}

#[test]
fn firmware_calls_answer_in_x0_and_are_behind_their_instruction() {
    let mut machine = Machine::new();
    machine.script(call(0x8400_0000, [0; 3]));
    machine.run_to_end();
    // HVC is behind the instruction already.
    assert_eq!((machine.register(0), machine.register(PC)), (0x1_0000, ENTRY));
    machine.script([Step::set(0, 0x8400_0000), Step::exception(0x17 << 26 | 1 << 25, 0)]);
    machine.run_to_end();
    assert_eq!((machine.register(0), machine.register(PC)), (0x1_0000, ENTRY + 4));
    // Another immediate is another convention.
    machine.script([Step::set(0, 0x8400_0000), Step::exception(0x16 << 26 | 1 << 25 | 1, 0)]);
    machine.run_to_end();
    assert_eq!(machine.register(0), u64::MAX);
}

#[test]
fn system_off_and_reset_shut_the_machine_down() {
    let mut machine = Machine::new();
    for function in [0x8400_0008, 0x8400_0009] {
        machine.script(call(function, [0; 3]));
        assert!(matches!(machine.vcpu.run().unwrap(), Exit::Shutdown));
    }
}

#[test]
fn suspended_vcpu_continues_after_a_wait_with_success() {
    let mut machine = Machine::new();
    machine.script(call(0xc400_0001, [0, ENTRY, 0]));
    machine.run_to_end();
    assert_eq!((machine.register(0), machine.register(PC)), (0, ENTRY));
}

#[test]
fn vcpu_that_is_off_runs_when_another_starts_it() {
    let mut machine = Machine::new();
    let mut other = machine.vm.create_vcpu(1).unwrap();
    let off = State::after_reset(1, SavedPower::Off);
    other.restore(&off, &Counter::after_reset()).unwrap();
    // A kick interrupts its wait, without a run.
    other.kicker().kick();
    assert!(matches!(other.run().unwrap(), Exit::Kicked));
    assert_eq!(machine.session.vcpu(other.id(), |vcpu| vcpu.runs), 0);
    machine.script(call(0xc400_0003, [1, 0x4010_0000, 77]));
    machine.run_to_end();
    assert_eq!(machine.register(0), 0);
    // It starts without what its registers had. The framework has been asked for an exit too.
    machine.session.vcpu(other.id(), |vcpu| {
        vcpu.system.insert(0xc080, 0xffff);
        vcpu.registers[7] = 1;
    });
    assert!(matches!(other.run().unwrap(), Exit::Kicked));
    machine.session.vcpu(other.id(), |vcpu| {
        assert_eq!((vcpu.registers[0], vcpu.registers[PC]), (77, 0x4010_0000));
        assert_eq!((vcpu.registers[7], vcpu.registers[CPSR]), (0, RESET_PSTATE));
        assert_eq!(vcpu.system[&0xc080], 0x30d0_0800);
    });
    // And it can turn itself off.
    machine.session.script(other.id(), call(0x8400_0002, [0; 3]));
    let (kicker, id, session) = (other.kicker(), other.id(), &machine.session);
    thread::scope(|scope| {
        scope.spawn(move || {
            session.wait_until(|world| {
                let vcpu = &world.vcpus[&id];
                vcpu.script.is_empty() && !vcpu.is_inside
            });
            kicker.kick();
        });
        assert!(matches!(other.run().unwrap(), Exit::Kicked));
    });
    assert_eq!(other.save().unwrap().state.power, SavedPower::Off);
}

#[test]
fn start_that_no_run_has_noticed_is_part_of_a_save() {
    let mut machine = Machine::new();
    let mut other = machine.vm.create_vcpu(1).unwrap();
    other.restore(&State::after_reset(1, SavedPower::Off), &Counter::after_reset()).unwrap();
    machine.script(call(0xc400_0003, [1, 0x4010_0000, 77]));
    machine.run_to_end();
    let saved = other.save().unwrap().state;
    let core = saved.core.unwrap();
    assert_eq!((saved.power, core.pc, core.x[0]), (SavedPower::On, 0x4010_0000, 77));
    assert_eq!(core.pstate, RESET_PSTATE);
}

#[test]
fn counter_continues_from_the_snapshots_value_on_every_vcpu() {
    let session = stand_in::begin();
    let vm = session.vm();
    let clock = Counter { value: 500, frequency_hz: HZ, realtime_ns: 0 };
    let mut vcpus = [0, 1].map(|index| vm.create_vcpu(index).unwrap());
    session.with(|world| world.now = 10_000);
    vcpus[0].restore(&boot(), &clock).unwrap();
    session.with(|world| world.now = 10_100);
    vcpus[1].restore(&State::after_reset(1, SavedPower::Off), &clock).unwrap();
    for vcpu in &mut vcpus {
        assert_eq!(session.vcpu(vcpu.id(), |vcpu| vcpu.offset), 9_500);
        assert_eq!(vcpu.save().unwrap().counter, (600, HZ));
    }
    // A reset begins at the snapshot's value again: the first vCPU leads.
    let originals = vcpus.each_mut().map(|vcpu| vcpu.save().unwrap().state);
    session.with(|world| world.now = 20_000);
    vcpus[0].reset(&originals[0], true).unwrap();
    session.with(|world| world.now = 20_050);
    vcpus[1].reset(&originals[1], false).unwrap();
    for vcpu in &mut vcpus {
        assert_eq!(vcpu.save().unwrap().counter, (550, HZ));
    }
}

#[test]
fn counter_of_a_machine_that_was_never_run_begins_at_zero() {
    let mut machine = Machine::new();
    machine.session.with(|world| world.now += 42);
    assert_eq!(machine.vcpu.save().unwrap().counter, (42, HZ));
}

#[test]
fn timers_are_set_after_the_interrupt_controller_and_before_the_guest_runs() {
    let mut machine = Machine::new();
    let mut state = machine.vcpu.save().unwrap().state;
    state.timers = Some(Timers {
        virtual_timer: Timer { control: 1, compare: 5 },
        physical_timer: Timer { control: 1, compare: 6 },
    });
    state.cpu_interface.iter_mut().for_each(|register| register.value = 9);
    let offset = machine.vcpu.offset;
    machine.vcpu.reset(&state, false).unwrap();
    // CNTV_CTL_EL0, and ICC_PMR_EL1.
    assert_eq!(machine.system(0xdf19), 0);
    machine.session.vcpu(machine.id(), |vcpu| vcpu.is_timer_masked = true);
    machine.session.log();
    machine.run_to_end();
    let log = machine.session.log();
    let place = |name| log.iter().position(|entry| *entry == name).unwrap();
    assert!(place("hv_gic_set_icc_reg") < place("hv_vcpu_set_sys_reg"));
    assert!(place("hv_vcpu_set_sys_reg") < place("hv_vcpu_set_vtimer_mask"));
    assert!(place("hv_vcpu_set_vtimer_mask") < place("hv_vcpu_run"));
    assert_eq!(
        [0xdf19, 0xdf1a, 0xdf11, 0xdf12].map(|reg| machine.system(reg)),
        [1, 5, 1, 6 + offset]
    );
    machine.session.vcpu(machine.id(), |vcpu| {
        assert_eq!((vcpu.interface[&0xc230], vcpu.is_timer_masked), (9, false));
    });
    // Once.
    machine.session.log();
    machine.run_to_end();
    assert!(!machine.session.log().contains(&"hv_gic_set_icc_reg"));
}

#[test]
fn timer_that_fired_stays_masked_until_the_guest_has_served_it() {
    let mut machine = Machine::new();
    let fire = |vcpu: &mut stand_in::Vcpu| {
        vcpu.system.insert(0xdf1a, 0);
        vcpu.system.insert(0xdf19, 1);
    };
    machine.script([Step::Do(Box::new(fire)), Step::timer()]);
    machine.run_to_end();
    let is_masked =
        |machine: &Machine| machine.session.vcpu(machine.id(), |vcpu| vcpu.is_timer_masked);
    assert!(is_masked(&machine));
    let pending = machine.session.vcpu(machine.id(), |vcpu| vcpu.redistributor.clone());
    assert_eq!(pending, [(0x1_0200, 1 << 27)]);
    let serve = |vcpu: &mut stand_in::Vcpu| {
        vcpu.system.insert(0xdf1a, u64::MAX >> 1);
    };
    machine.script([Step::Do(Box::new(serve))]);
    machine.run_to_end();
    machine.run_to_end();
    assert!(!is_masked(&machine));
}

#[test]
fn state_round_trips() {
    let mut machine = Machine::new();
    machine.session.vcpu(machine.id(), |vcpu| {
        vcpu.registers.iter_mut().zip(1..).for_each(|(value, number)| *value = number << 8);
        vcpu.simd.iter_mut().zip(1..).for_each(|(value, number)| *value = [number, !number]);
        let writable = |register: &u16| !(0xc000..0xc040).contains(register);
        let system = vcpu.system.iter_mut().filter(|(register, _)| writable(register));
        system.for_each(|(register, value)| *value = u64::from(*register) << 4);
        let interface = vcpu.interface.iter_mut();
        interface.for_each(|(register, value)| *value = u64::from(*register) << 5);
    });
    machine.vcpu.deferred = None;
    machine.vcpu.is_locked = true;
    machine.vcpu.presence.set_power(Power::Off);
    let saved = machine.vcpu.save().unwrap();
    assert!(saved.state.system.is_sorted_by(|one, two| one.encoding < two.encoding));
    assert!(is_whole(&saved.state));
    machine.vcpu.restore(&boot(), &Counter::after_reset()).unwrap();
    assert_ne!(machine.vcpu.save().unwrap().state, saved.state);
    let clock = Counter { value: saved.counter.0, frequency_hz: HZ, realtime_ns: 0 };
    machine.vcpu.restore(&saved.state, &clock).unwrap();
    assert_eq!(machine.vcpu.save().unwrap().state, saved.state);
}

#[test]
fn states_that_the_framework_cannot_restore_are_refused() {
    let mut machine = Machine::new();
    let whole = machine.vcpu.save().unwrap().state;
    let clock = Counter::after_reset();
    let mut refused = |change: fn(&mut State)| {
        let mut state = whole.clone();
        change(&mut state);
        machine.vcpu.restore(&state, &clock).unwrap_err().to_string()
    };
    assert!(refused(|state| state.mpidr = 1).contains("affinity"));
    assert!(refused(|state| state.power = SavedPower::Suspended).contains("suspended"));
    assert!(
        refused(|state| {
            state.events = Some(Events { serror_pending: true, serror_syndrome: None });
        })
        .contains("system errors")
    );
    assert!(
        refused(|state| state.system.push(SystemRegister { encoding: 0xe080, value: 0 }))
            .contains("S3_4_C1_C0_0")
    );
    assert!(
        refused(|state| state.cpu_interface.push(SystemRegister { encoding: 0xc645, value: 0 }))
            .contains("S3_0_C12_C8_5")
    );
}

#[test]
fn reset_with_a_part_of_a_state_is_refused() {
    let mut machine = Machine::new();
    let whole = machine.vcpu.save().unwrap().state;
    machine.vcpu.reset(&whole, true).unwrap();
    let changes: [fn(&mut State); 6] = [
        |state| state.core = None,
        |state| state.simd = None,
        |state| state.timers = None,
        |state| state.events = None,
        |state| state.system.clear(),
        |state| state.cpu_interface.clear(),
    ];
    for change in changes {
        let mut state = whole.clone();
        change(&mut state);
        let refused = machine.vcpu.reset(&state, true).unwrap_err();
        assert!(matches!(refused, HypervisorError::PartialState), "{refused}");
    }
}

#[test]
fn vcpu_has_its_affinity_before_the_interrupt_controller_is_asked() {
    let session = stand_in::begin();
    let vm = session.vm();
    for index in 0..3 {
        let vcpu = vm.create_vcpu(index).unwrap();
        let own = session.vcpu(vcpu.id(), |vcpu| vcpu.system[&0xc005]);
        assert_eq!(own, 1 << 31 | u64::from(index));
    }
}
