use super::super::instance::Instance;
use super::super::stand_in::{self, Session};
use super::*;
use crate::arch::aarch64::registers::is_state;

/// A vCPU in a VM without an interrupt controller.
fn vcpu() -> (Session, Instance, Cpu) {
    let session = stand_in::begin();
    let instance = Instance::new().unwrap();
    let cpu = Cpu::new().unwrap();
    (session, instance, cpu)
}

fn core() -> CoreRegisters {
    let mut x = [0; GENERAL_REGISTERS];
    x.iter_mut().zip(1..).for_each(|(value, number)| *value = number << 40 | number);
    CoreRegisters {
        x,
        pc: 0x4008_0000,
        pstate: 0x6000_03c5,
        sp_el0: 0x1000,
        sp_el1: 0x2000,
        elr_el1: 0x3000,
        spsr_el1: 0x4000,
    }
}

#[test]
fn general_registers_round_trip() {
    let (session, _instance, cpu) = vcpu();
    load_core(&cpu, &core()).unwrap();
    assert_eq!(save_core(&cpu).unwrap(), core());
    session.vcpu(cpu.id(), |vcpu| {
        assert_eq!((vcpu.registers[0], vcpu.registers[30]), (1 << 40 | 1, 31 << 40 | 31));
        // PC and CPSR, SP_EL0 and SP_EL1.
        assert_eq!((vcpu.registers[31], vcpu.registers[34]), (0x4008_0000, 0x6000_03c5));
        assert_eq!((vcpu.system[&0xc208], vcpu.system[&0xe208]), (0x1000, 0x2000));
    });
}

/// The framework takes the value in a vector register; the stand-in does too.
#[test]
fn simd_registers_round_trip_in_vector_registers() {
    let (session, _instance, cpu) = vcpu();
    let mut simd = simd_after_reset();
    simd.v.iter_mut().zip(1..).for_each(|(value, number)| *value = [number, number << 56 | 7]);
    (simd.fpsr, simd.fpcr) = (0x0800_0001, 0x0300_0000);
    load_simd(&cpu, &simd).unwrap();
    assert_eq!(save_simd(&cpu).unwrap(), simd);
    session.vcpu(cpu.id(), |vcpu| {
        assert_eq!((vcpu.simd[0], vcpu.simd[31]), ([1, 1 << 56 | 7], [32, 32 << 56 | 7]));
        // FPCR and FPSR.
        assert_eq!((vcpu.registers[32], vcpu.registers[33]), (0x0300_0000, 0x0800_0001));
    });
}

#[test]
fn system_registers_round_trip() {
    let (session, _instance, cpu) = vcpu();
    let registers = SystemRegisters::of(&cpu).unwrap();
    let listed = registers.save(&cpu).unwrap();
    let saved: Vec<SystemRegister> = listed
        .iter()
        .map(|register| SystemRegister { value: u64::from(register.encoding) << 8, ..*register })
        .collect();
    registers.load(&cpu, &saved).unwrap();
    assert_eq!(registers.save(&cpu).unwrap(), saved);
    session.vcpu(cpu.id(), |vcpu| {
        // SCTLR_EL1, APGAKeyHi_EL1, TPIDR_EL0.
        for register in [0xc080, 0xc119, 0xde82] {
            assert_eq!(vcpu.system[&register], u64::from(register) << 8, "{register:#x}");
        }
    });
}

#[test]
fn listed_system_registers_rise_and_are_state() {
    let (_session, _instance, cpu) = vcpu();
    let registers = SystemRegisters::of(&cpu).unwrap().save(&cpu).unwrap();
    assert!(registers.is_sorted_by(|one, two| one.encoding < two.encoding));
    for register in &registers {
        assert!(is_state(register.encoding), "{}", name(register.encoding));
    }
    // Six breakpoints and four watchpoints, two registers each.
    let debug = registers.iter().filter(|register| (0x8004..0x8080).contains(&register.encoding));
    assert_eq!(debug.filter(|register| register.encoding & 4 != 0).count(), 2 * (6 + 4));
    assert_eq!(registers.len(), SYSTEM.len() + NEWER.len() + 2 * (6 + 4));
}

#[test]
fn register_that_an_older_macos_lacks_is_neither_saved_nor_restored() {
    let session = stand_in::begin();
    session.with(|world| world.absent = vec![encoding_of(Reg::SCXTNUM_EL1)]);
    let _instance = Instance::new().unwrap();
    let cpu = Cpu::new().unwrap();
    let registers = SystemRegisters::of(&cpu).unwrap();
    assert_eq!(registers.save(&cpu).unwrap().len(), SYSTEM.len() + NEWER.len() - 1 + 20);
    let missing = SystemRegister { encoding: encoding_of(Reg::SCXTNUM_EL1), value: 0 };
    let refused = registers.load(&cpu, &[missing]).unwrap_err();
    assert_eq!(refused.to_string(), "host refuses system register S3_0_C13_C0_7");
}

#[test]
fn register_that_every_macos_has_must_be_there() {
    let session = stand_in::begin();
    session.with(|world| world.absent = vec![encoding_of(Reg::VBAR_EL1)]);
    let _instance = Instance::new().unwrap();
    let cpu = Cpu::new().unwrap();
    let registers = SystemRegisters::of(&cpu).unwrap();
    assert!(matches!(registers.save(&cpu), Err(HypervisorError::Call { .. })));
    assert!(matches!(registers.load(&cpu, &[]), Err(HypervisorError::Register { .. })));
}

#[test]
fn register_that_is_not_saved_is_as_after_a_reset() {
    let (_session, _instance, cpu) = vcpu();
    let registers = SystemRegisters::of(&cpu).unwrap();
    cpu.set_system(Reg::VBAR_EL1, 7).unwrap();
    cpu.set_system(Reg::SCTLR_EL1, 0x30d0_1805).unwrap();
    let saved = SystemRegister { encoding: encoding_of(Reg::TCR_EL1), value: 9 };
    registers.load(&cpu, &[saved]).unwrap();
    let values = [Reg::VBAR_EL1, Reg::SCTLR_EL1, Reg::TCR_EL1].map(|reg| cpu.system(reg).unwrap());
    assert_eq!(values, [0, 0x30d0_0800, 9]);
}

#[test]
fn unknown_register_is_refused_before_any_is_written() {
    let (session, _instance, cpu) = vcpu();
    let registers = SystemRegisters::of(&cpu).unwrap();
    session.log();
    // SCTLR_EL2, the virtual timer's compare value, and a breakpoint that the host does not have.
    for unknown in [0xe080, 0xdf1a, 0x807c] {
        let saved = [SystemRegister { encoding: unknown, value: 1 }];
        let refused = registers.load(&cpu, &saved).unwrap_err();
        assert!(matches!(refused, HypervisorError::Register { .. }), "{unknown:#x}: {refused}");
    }
    assert_eq!(session.log(), [""; 0]);
}

#[test]
fn timers_round_trip_and_are_on_only_with_their_compare_values() {
    let (session, _instance, cpu) = vcpu();
    let timer = |control, compare| timer::Registers { control, compare };
    load_timers(&cpu, (timer(1, u64::MAX >> 2), timer(3, 8))).unwrap();
    session.vcpu(cpu.id(), |vcpu| {
        assert_eq!((vcpu.system[&0xdf19], vcpu.system[&0xdf11]), (1, 3));
    });
    // The physical one has fired.
    assert_eq!(timers(&cpu).unwrap(), (timer(1, u64::MAX >> 2), timer(7, 8)));
}
