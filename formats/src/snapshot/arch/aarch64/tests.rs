use alloc::string::ToString;
use alloc::vec;

use super::processor::{CTR, ISAR0, MMFR0, MMFR1, PFR0, is_identification};
use super::vcpu::FIRST_ENCODING;
use super::*;
use crate::codec::DecodeError;
use crate::snapshot::arch::{ArchState, Baseline};
use crate::snapshot::tests::{refused, sample_of, without_later_slots};
use crate::snapshot::{Snapshot, SnapshotError};

/// A state in which every field differs from its neighbours.
pub(in crate::snapshot) fn state() -> State {
    let register = |encoding, value| SystemRegister { encoding, value };
    State {
        processor: Processor {
            baseline: Baseline::Armv8_2,
            midr: 1,
            registers: vec![register(PFR0, 2), register(CTR, 3)],
        },
        vcpus: vec![Vcpu {
            mpidr: 0x0100,
            power: Power::Suspended,
            core: Some(CoreRegisters {
                x: core::array::from_fn(|n| n as u64),
                pc: 31,
                pstate: 32,
                sp_el0: 33,
                sp_el1: 34,
                elr_el1: 35,
                spsr_el1: 36,
            }),
            simd: Some(SimdRegisters {
                v: core::array::from_fn(|n| [n as u64, 64]),
                fpsr: 37,
                fpcr: 38,
            }),
            system: vec![register(encoding(3, 0, 1, 0, 0), 39)],
            timers: Some(Timers {
                virtual_timer: Timer { control: 1, compare: 40 },
                physical_timer: Timer { control: 2, compare: 41 },
            }),
            cpu_interface: vec![register(encoding(3, 0, 4, 6, 0), 42)],
            events: Some(Events { serror_pending: true, serror_syndrome: Some(43) }),
        }],
        gic: Gic::Registers(GicRegisters {
            interrupts: 64,
            distributor: vec![GicRegister { offset: 0, value: 44 }],
            lines: vec![45],
            redistributors: vec![Redistributor {
                mpidr: 0x0100,
                registers: vec![GicRegister { offset: 0x1_0080, value: 46 }],
                lines: 47,
            }],
        }),
        counter: Counter { value: 48, frequency_hz: 49, realtime_ns: 50 },
    }
}

/// The error for a snapshot whose state was changed; `None` if it is legal.
fn error_of(change: impl FnOnce(&mut State)) -> Option<SnapshotError> {
    let mut state = state();
    change(&mut state);
    refused(&sample_of(ArchState::Aarch64(state)))
}

#[track_caller]
fn assert_inconsistent(section: &str, change: impl FnOnce(&mut State)) {
    let error = error_of(change);
    let Some(SnapshotError::Inconsistent { section: found, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(found, section);
}

fn gic(state: &mut State) -> &mut GicRegisters {
    match &mut state.gic {
        Gic::Registers(registers) => registers,
        Gic::Opaque { .. } => panic!("another form"),
    }
}

#[test]
fn snapshot_round_trips_and_no_flipped_byte_goes_unnoticed() {
    let snapshot = sample_of(ArchState::Aarch64(state()));
    let file = snapshot.encode();
    assert_eq!(Snapshot::decode(&file), Ok(snapshot));
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 0x40;
        assert!(Snapshot::decode(&damaged).is_err(), "flipped byte {at} goes unnoticed");
        assert!(Snapshot::decode(&file[..at]).is_err(), "cut to {at} goes unnoticed");
    }
}

/// The layout is fixed by the format's version. A change here is a new version, not a new
/// number in this test.
#[test]
fn layout_of_version_two_is_locked() {
    let sample = without_later_slots(sample_of(ArchState::Aarch64(state())));
    let digest = crate::Digest::of(&sample.encode());
    assert_eq!(digest.hex(), include_str!("layout-v2.sha256").trim());
}

#[test]
fn opaque_controller_round_trips_for_its_own_hypervisor_only() {
    let opaque = |family| Gic::Opaque { family, state: vec![1, 2, 3] };
    assert_eq!(error_of(|state| state.gic = opaque(HypervisorFamily::Kvm)), None);
    assert_inconsistent("gic", |state| state.gic = opaque(HypervisorFamily::Hvf));
    let too_large = vec![0; gic::MAX_OPAQUE_SIZE + 1];
    let too_large = Gic::Opaque { family: HypervisorFamily::Kvm, state: too_large };
    assert!(matches!(
        error_of(|state| state.gic = too_large),
        Some(SnapshotError::Section { section: "gic", source: DecodeError::TooLarge { .. } })
    ));
}

#[test]
fn controller_that_was_never_run_is_legal() {
    assert_eq!(error_of(|state| state.gic = Gic::reset(96)), None);
}

#[test]
fn controllers_with_illegal_parts_are_refused() {
    for interrupts in [0, 33, 1024] {
        assert_inconsistent("gic", |state| gic(state).interrupts = interrupts);
    }
    assert_inconsistent("gic", |state| gic(state).lines.push(0));
    assert_inconsistent("gic", |state| gic(state).distributor[0].offset = 2);
    assert_inconsistent("gic", |state| gic(state).distributor[0].offset = 0x1_0000);
    assert_inconsistent("gic", |state| {
        let same = gic(state).distributor[0];
        gic(state).distributor.push(same);
    });
    assert_inconsistent("gic", |state| {
        let offsets = 0..=u32::try_from(gic::MAX_REGISTERS).unwrap();
        gic(state).distributor = offsets.map(|n| GicRegister { offset: n * 4, value: 0 }).collect();
    });
    assert_inconsistent("gic", |state| {
        gic(state).redistributors[0].registers[0].offset = gic::REDISTRIBUTOR_SIZE;
    });
    assert_inconsistent("gic", |state| gic(state).redistributors[0].mpidr = 0);
    assert_inconsistent("gic", |state| {
        let same = gic(state).redistributors[0].clone();
        gic(state).redistributors.push(same);
    });
}

#[test]
fn vcpus_with_illegal_parts_are_refused() {
    assert_inconsistent("arm64 vcpus", |state| state.vcpus[0].mpidr = 1 << 31);
    assert_inconsistent("arm64 vcpus", |state| state.vcpus.clear());
    assert_inconsistent("arm64 vcpus", |state| {
        let same = state.vcpus[0].system[0];
        state.vcpus[0].system.push(same);
    });
    assert_inconsistent("arm64 vcpus", |state| state.vcpus[0].cpu_interface[0].encoding = 7);
    assert_inconsistent("arm64 vcpus", |state| {
        let last = FIRST_ENCODING + u16::try_from(MAX_SYSTEM_REGISTERS).unwrap();
        state.vcpus[0].system =
            (FIRST_ENCODING..=last).map(|encoding| SystemRegister { encoding, value: 0 }).collect();
    });
    let mut snapshot = sample_of(ArchState::Aarch64(state()));
    snapshot.machine.vcpus = 2;
    let ArchState::Aarch64(state) = &mut snapshot.arch else { unreachable!() };
    state.vcpus.push(state.vcpus[0].clone());
    let what = "two vCPUs with the same MPIDR";
    let expected = SnapshotError::Inconsistent { section: "arm64 vcpus", what };
    assert_eq!(refused(&snapshot), Some(expected));
}

#[test]
fn processors_with_illegal_parts_are_refused() {
    assert_inconsistent("arm64 processor", |state| state.processor.registers.swap(0, 1));
    assert_inconsistent("arm64 processor", |state| {
        state.processor.registers[0].encoding = encoding(3, 0, 1, 0, 0);
    });
    assert_inconsistent("arm64 processor", |state| state.processor.baseline = Baseline::V3);
}

#[test]
fn only_registers_that_describe_the_processor_are_identification() {
    for register in [PFR0, MMFR0, CTR] {
        assert!(is_identification(register));
    }
    // MIDR, MPIDR, SCTLR.
    for register in [encoding(3, 0, 0, 0, 0), encoding(3, 0, 0, 0, 5), encoding(3, 0, 1, 0, 0)] {
        assert!(!is_identification(register));
    }
}

/// A host with these registers, and no others.
fn host(registers: &[(u16, u64)]) -> impl Fn(u16) -> Option<u64> {
    let registers = registers.to_vec();
    move |wanted| registers.iter().find(|(register, _)| *register == wanted).map(|(_, v)| *v)
}

/// Registers like those of a Neoverse N1.
const NEOVERSE_N1: [(u16, u64); 7] = [
    (PFR0, 0x1100_0000_1111_1112),
    (ISAR0, 0x0000_1000_1021_1120),
    (processor::ISAR1, 0x0010_0001),
    (MMFR0, 0x0000_0000_0010_1125),
    (MMFR1, 0x1021_2122),
    (processor::MMFR2, 0x0000_0000_0000_1011),
    (CTR, 0x8444_c004),
];

#[test]
fn baselines_fit_the_processors_that_they_are_named_for() {
    let missing = |baseline| Processor::of(baseline).missing(host(&NEOVERSE_N1)).to_string();
    assert_eq!(missing(Baseline::Armv8_2), "");
    assert_eq!(missing(Baseline::Host), "");
    let m1 = missing(Baseline::AppleM1);
    assert!(m1.contains("ISAR0.SHA3 1 (host has 0)"), "{m1}");
    assert!(!m1.contains("AES") && !m1.contains("PAN"), "{m1}");
}

#[test]
fn value_of_a_baseline_has_its_features_and_no_others() {
    let of = |baseline: Baseline, wanted: u16| {
        let registers = baseline.id_registers();
        registers.into_iter().find(|register| register.encoding == wanted).unwrap()
    };
    assert_eq!(of(Baseline::Armv8_2, ISAR0).value, 0x0000_1000_1021_1120);
    assert_eq!(of(Baseline::Armv8_2, ISAR0).fixed, u64::MAX);
    let memory = of(Baseline::Armv8_2, MMFR0);
    // 4 KiB granules, none of 64 or 16 KiB, 36 address bits; the width of ASIDs is the host's.
    assert_eq!((memory.value, memory.fixed & 0xffff_ffff), (0x0f00_0001, 0xffff_ff0f));
    assert_eq!(of(Baseline::AppleM1, ISAR0).value, 0x0021_1001_1021_2120);
    assert!(Baseline::V3.id_registers().is_empty() && Baseline::Host.id_registers().is_empty());
}

#[test]
fn fields_are_those_of_the_registers_or_of_the_baseline() {
    let fields = Processor::of(Baseline::Armv8_2).fields();
    assert_eq!(fields[..3], ["PFR0.EL0=1", "PFR0.EL1=1", "PFR0.FP=1"]);
    let registers = vec![SystemRegister { encoding: ISAR0, value: 0x10 }];
    let shown = Processor { baseline: Baseline::Armv8_2, midr: 1, registers };
    assert_eq!(shown.fields(), ["ISAR0.AES=1"]);
}

#[test]
fn guest_that_was_run_requires_what_it_was_shown() {
    let register = |encoding, value| SystemRegister { encoding, value };
    let processor = |registers| Processor { baseline: Baseline::Host, midr: 1, registers };
    let missing = |registers: Vec<SystemRegister>, host_registers: &[(u16, u64)]| {
        processor(registers).missing(host(host_registers)).to_string()
    };
    // Greater values of a field are more, except for those that are signed or reversed.
    assert_eq!(missing(vec![register(MMFR1, 0x20)], &[]), "");
    assert_eq!(missing(vec![register(ISAR0, 0x20)], &[(ISAR0, 0x21)]), "");
    assert_eq!(missing(vec![register(ISAR0, 0x20)], &[(ISAR0, 0x10)]), "ISAR0.AES 2 (host has 1)");
    let no_float = 0xf << 16;
    assert_eq!(missing(vec![register(PFR0, no_float)], &[(PFR0, 0)]), "");
    assert_eq!(missing(vec![register(PFR0, 0)], &[(PFR0, no_float)]), "PFR0.FP 0 (host has 15)");
    assert_eq!(missing(vec![register(CTR, 4)], &[(CTR, 5)]), "");
    assert_eq!(missing(vec![register(CTR, 5)], &[(CTR, 4)]), "CTR.IminLine 5 (host has 4)");
    assert_eq!(missing(vec![register(CTR, 4 << 24)], &[(CTR, 3 << 24)]), "");
    assert_eq!(missing(vec![register(CTR, 3 << 24)], &[(CTR, 4 << 24)]), "CTR.CWG 3 (host has 4)");
    let unnamed = encoding(3, 0, 0, 5, 0);
    assert_eq!(
        missing(vec![register(unnamed, 6)], &[(unnamed, 5)]),
        "S3_0_C0_C5_0[0] 6 (host has 5)"
    );
}
