use super::super::stand_in::{self, HZ, Session};
use super::*;
use crate::arch::Mismatch;
use crate::arch::aarch64::processor::check;
use supermachine_formats::snapshot::arch::aarch64::processor::{ISAR0, MMFR1};
use supermachine_formats::snapshot::arch::aarch64::{Counter, Gic, State};

fn host(session: &Session) -> Host {
    Host::clone(&session.host())
}

fn vcpu() -> (Session, Instance, Cpu) {
    let session = stand_in::begin();
    let instance = Instance::new().unwrap();
    let cpu = Cpu::new().unwrap();
    (session, instance, cpu)
}

fn state(processor: Processor, frequency_hz: u32) -> State {
    let counter = Counter { value: 0, frequency_hz, realtime_ns: 0 };
    State { processor, vcpus: Vec::new(), gic: Gic::reset(64), counter }
}

#[test]
fn host_hides_features_without_state_and_shows_the_interrupt_controller() {
    let session = stand_in::begin();
    let host = host(&session);
    assert_eq!((host.midr, host.frequency_hz), (0x610f_0000, HZ));
    // No scalable vectors were there; the interrupt controller is added.
    assert_eq!(host.register(PFR0), Some(0x1101_0000_0111_0011));
    // Neither APA, API, GPA nor GPI.
    assert_eq!(host.register(ISAR1), Some(0x0110_2112_0021_1002));
    // 40 bits of 42.
    assert_eq!(host.register(MMFR0).map(|value| value & 0xf), Some(2));
    assert_eq!(host.register(CTR), Some(0x8444_c004));
    assert!(host.registers.is_sorted_by(|one, two| one.0.encoding < two.0.encoding));
}

#[test]
fn field_that_the_framework_does_not_change_is_the_hosts() {
    let session = stand_in::begin();
    session.with(|world| {
        // Only GPA and GPI can be hidden.
        world.writable.insert(ISAR1, 0xff << 24);
        world.writable.insert(MMFR0, 0);
    });
    let host = host(&session);
    assert_eq!(host.register(ISAR1), Some(0x0110_2112_0021_1402));
    assert_eq!(host.register(MMFR0), Some(0x0f10_0003));
    let mask = |register| {
        host.registers.iter().find(|(own, _)| own.encoding == register).map(|(_, mask)| *mask)
    };
    assert_eq!((mask(ISAR1), mask(MMFR0), mask(CTR)), (Some(0xff << 24), Some(0), Some(0)));
    // Debug registers.
    assert_eq!(host.register(DFR0), Some(0x1030_5006));
}

#[test]
fn host_continues_its_own_snapshots_of_the_same_frequency_only() {
    let session = stand_in::begin();
    let host = host(&session);
    let registers = host.registers.iter().map(|(register, _)| *register).collect();
    let own = Processor { baseline: Baseline::Host, midr: host.midr, registers };
    assert_eq!(check(&state(own.clone(), HZ), &host), Ok(()));
    let found = 1_000_000_000;
    let expected = Mismatch::CounterFrequency { found, host: HZ };
    assert_eq!(check(&state(own.clone(), found), &host), Err(expected));
    let other = Processor { midr: 0x413f_d0c1, ..own };
    assert!(matches!(check(&state(other, HZ), &host), Err(Mismatch::Vendor { .. })));
    for baseline in [Baseline::Armv8_2, Baseline::AppleM1] {
        assert_eq!(check(&state(Processor::of(baseline), 0), &host), Ok(()), "{baseline}");
    }
}

#[test]
fn guest_sees_the_processor_of_its_snapshot() {
    let (_session, _instance, cpu) = vcpu();
    let wanted = [
        SystemRegister { encoding: ISAR0, value: 0x1021_1120 },
        SystemRegister { encoding: MMFR1, value: 0 },
        SystemRegister { encoding: CTR, value: 0x8444_c004 },
    ];
    identify(&cpu, &wanted).unwrap();
    let shown = shown(&cpu).unwrap();
    assert_eq!(shown.midr, 0x610f_0000);
    assert_eq!(
        wanted.map(|register| shown.register(register.encoding)),
        wanted.map(|register| Some(register.value))
    );
}

#[test]
fn processor_that_the_host_cannot_show_is_refused_by_name() {
    let (session, _instance, cpu) = vcpu();
    session.with(|world| world.writable.insert(MMFR1, 0xf));
    for (encoding, value, expected) in [
        (MMFR1, 0x1021_2120, "S3_0_C0_C7_1"),
        (CTR, 0x8444_c003, "S3_3_C0_C0_1"),
        // ID_AA64ISAR2_EL1, which the framework lacks.
        (0xc032, 1, "S3_0_C0_C6_2"),
    ] {
        let refused = identify(&cpu, &[SystemRegister { encoding, value }]).unwrap_err();
        assert_eq!(refused.to_string(), format!("host refuses system register {expected}"));
    }
    identify(&cpu, &[SystemRegister { encoding: 0xc032, value: 0 }]).unwrap();
}

#[test]
fn address_range_is_the_greatest_that_fits() {
    assert_eq!([36, 39, 40, 41, 42, 48, 52].map(address_range), [1, 1, 2, 2, 3, 5, 5]);
    // A host with less than the address space keeps its own.
    assert_eq!(offered(MMFR0, 0x0f10_0001, 40), 0x0f10_0001);
}
