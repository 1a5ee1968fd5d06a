use super::arch::aarch64;
use super::arch::x86_64::baseline::{FeatureWord, Processor, Register};
use super::arch::x86_64::*;
use super::arch::{ArchState, Baseline};
use super::device::{
    Block, Net, Pmem, Queue, Serial, Share, ShareHandle, ShareNode, Slot, Virtio, Volume, Vsock,
    VsockConnection,
};
use super::memory::Run;
use super::*;
use crate::Digest;
use crate::codec::DecodeError;
use alloc::string::ToString;
use alloc::vec;

/// An x86_64 snapshot in which every field differs from its neighbours.
fn sample() -> Snapshot {
    sample_of(ArchState::X86_64(state()))
}

/// A snapshot of one vCPU with this state, for KVM.
pub(super) fn sample_of(arch: ArchState) -> Snapshot {
    Snapshot {
        hypervisor: HypervisorFamily::Kvm,
        machine: Machine {
            stage: Stage::Image,
            parent: Some(Digest::of(b"parent")),
            memory_size: 128 << 20,
            vcpus: 1,
        },
        workload: Some(Workload {
            reference: "nginx".into(),
            manifest: Digest::of(b"manifest"),
            argv: vec!["nginx".into()],
            ready: "tcp:80".into(),
            exposed_ports: vec![80],
        }),
        stop: None,
        image_command: None,
        after_restore: None,
        arch,
        slots: slots(),
        serial: Serial {
            divisor: [1, 2],
            interrupt_enable: 3,
            interrupt_identification: 4,
            line_control: 5,
            line_status: 6,
            modem_control: 7,
            modem_status: 8,
            scratch: 9,
            input: vec![10],
        },
        disks: vec![Disk { size: 2 << 20 }],
        working_set: WorkingSet {
            written: vec![Run { first: 1, count: 1 }],
            read: vec![Run { first: 2, count: 1 }],
        },
    }
}

fn state() -> State {
    State {
        processor: Processor {
            baseline: Baseline::V3,
            features: vec![
                FeatureWord { function: 1, index: 2, register: Register::Ecx, mask: 3 },
                FeatureWord { function: 1, index: 2, register: Register::Edx, mask: 4 },
            ],
        },
        vcpus: vec![vcpu()],
        ioapic: Ioapic { id: 1, selected: 2, pins: core::array::from_fn(|pin| pin as u64) },
        clock: Clock { monotonic_ns: 1, realtime_ns: 2, tsc_khz: 3 },
    }
}

/// An x86_64 snapshot with a changed state.
fn changed(change: impl FnOnce(&mut State)) -> Snapshot {
    let mut state = state();
    change(&mut state);
    sample_of(ArchState::X86_64(state))
}

/// A snapshot without the kinds of slots that came later than its version.
pub(super) fn without_later_slots(mut snapshot: Snapshot) -> Snapshot {
    snapshot
        .slots
        .retain(|slot| !matches!(slot, Slot::Net(..) | Slot::Share(..) | Slot::Volume(..)));
    snapshot
}

/// The error for a snapshot; `None` if it is legal.
pub(super) fn refused(snapshot: &Snapshot) -> Option<SnapshotError> {
    Snapshot::decode(&snapshot.encode()).err()
}

fn slots() -> Vec<Slot> {
    let virtio = Virtio {
        driver_features: 1,
        device_features_select: 2,
        driver_features_select: 3,
        queue_select: 4,
        status: 5,
        interrupt_status: 6,
        config_generation: 7,
        queues: vec![Queue {
            max_size: 256,
            size: 128,
            ready: true,
            descriptors: 0x1000,
            available: 0x2000,
            used: 0x3000,
            next_available: 8,
            next_used: 9,
            event_index: false,
        }],
    };
    let connection = VsockConnection {
        host_port: 1,
        guest_port: 1024,
        peer_buffer: 2,
        peer_consumed: 3,
        sent: 4,
        consumed: 5,
    };
    vec![
        Slot::Empty,
        Slot::Vsock(
            virtio.clone(),
            Vsock { guest_cid: 3, next_port: 6, connections: vec![connection] },
        ),
        Slot::Rng(virtio.clone()),
        Slot::Pmem(virtio.clone(), Pmem { disk: 0, address: 1 << 37, size: 2 << 20 }),
        Slot::Block(virtio.clone(), Block { disk: 0 }),
        Slot::Net(virtio.clone(), Net { mac: [2, 0, 0, 0, 0, 1], mtu: 1500 }),
        Slot::Share(
            virtio.clone(),
            Share {
                tag: [b't'; 36],
                target: "/project".into(),
                nodes: vec![ShareNode { id: 2, parent: 1, name: b"a".to_vec(), lookups: 3 }],
                handles: vec![ShareHandle { id: 4, node: 2, flags: 5, is_folder: false }],
            },
        ),
        Slot::Volume(virtio, Volume { name: "data".into(), target: "/data".into() }),
    ]
}

fn vcpu() -> Vcpu {
    let segment = |n| Segment { base: n, limit: 1, selector: 2, access: 3 };
    Vcpu {
        cpuid: vec![CpuidLeaf {
            function: 1,
            index: 2,
            indexed: true,
            eax: 3,
            ebx: 4,
            ecx: 5,
            edx: 6,
        }],
        registers: Some(Registers {
            abcd: [1, 2, 3, 4],
            rsi: 5,
            rdi: 6,
            rsp: 7,
            rbp: 8,
            r8_r15: [9, 10, 11, 12, 13, 14, 15, 16],
            rip: 17,
            rflags: 18,
        }),
        special: Some(SpecialRegisters {
            segments: core::array::from_fn(|n| segment(n as u64)),
            tr: segment(7),
            ldt: segment(8),
            gdt: Table { base: 1, limit: 2 },
            idt: Table { base: 3, limit: 4 },
            cr0: 1,
            cr2: 2,
            cr3: 3,
            cr4: 4,
            cr8: 5,
            efer: 6,
            apic_base: 7,
        }),
        run_state: RunState::Halted,
        lapic: Some([0xAA; LAPIC_SIZE]),
        xsave: Some([0xBB; XSAVE_SIZE]),
        xcr0: Some(7),
        debug: None,
        events: None,
        msrs: vec![Msr { index: 0x10, value: 99 }],
    }
}

#[test]
fn snapshot_round_trips() {
    let snapshot = sample();
    assert_eq!(Snapshot::decode(&snapshot.encode()), Ok(snapshot));
}

#[test]
fn every_flipped_byte_is_refused() {
    let file = sample().encode();
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 0x40;
        assert!(Snapshot::decode(&damaged).is_err(), "flipped byte {at} goes unnoticed");
    }
}

#[test]
fn every_truncation_is_refused() {
    let file = sample().encode();
    for length in 0..file.len() {
        assert!(Snapshot::decode(&file[..length]).is_err(), "cut to {length} goes unnoticed");
    }
}

#[test]
fn flipped_byte_in_a_section_names_the_section() {
    let mut file = sample().encode();
    let last = file.len() - 1;
    file[last] ^= 1;
    assert_eq!(Snapshot::decode(&file), Err(SnapshotError::Digest { section: "processor" }));
}

#[test]
fn other_version_is_refused_by_number() {
    let mut file = sample().encode();
    file[8] = 3;
    let expected = SnapshotError::Version { found: 3, supported: 2 };
    assert_eq!(Snapshot::decode(&file), Err(expected));
}

#[test]
fn unknown_incompatible_features_are_refused() {
    let mut file = sample().encode();
    file[16] = 4;
    assert_eq!(Snapshot::decode(&file), Err(SnapshotError::Features { unknown: 4 }));
}

#[test]
fn runs_out_of_order_are_refused() {
    let mut snapshot = sample();
    let run = |first| Run { first, count: 1 };
    snapshot.working_set.written = vec![run(9), run(1)];
    assert!(matches!(
        Snapshot::decode(&snapshot.encode()),
        Err(SnapshotError::Section { section: "working set", .. })
    ));
}

#[test]
fn features_out_of_order_or_empty_are_refused() {
    let refused = |change: fn(&mut Vec<FeatureWord>)| {
        let error = refused(&changed(|state| change(&mut state.processor.features)));
        matches!(error, Some(SnapshotError::Inconsistent { section: "processor", .. }))
    };
    assert!(refused(|features| features.swap(0, 1)));
    assert!(refused(|features| features.push(features[1])));
    assert!(refused(|features| features[0].mask = 0));
    assert!(refused(|features| {
        *features = (0..=64).map(|function| FeatureWord { function, ..features[0] }).collect();
    }));
    assert!(!refused(Vec::clear));
}

#[test]
fn header_with_another_baseline_is_refused() {
    for baseline in [0, 2, 9] {
        let mut file = sample().encode();
        file[12] = baseline;
        assert!(matches!(
            Snapshot::decode_trusted(&file),
            Err(SnapshotError::Inconsistent { section: "processor", .. })
        ));
    }
}

#[test]
fn baseline_of_another_architecture_is_refused() {
    let error = refused(&changed(|state| state.processor.baseline = Baseline::Armv8_2));
    assert!(matches!(error, Some(SnapshotError::Inconsistent { section: "processor", .. })));
}

#[test]
fn section_of_another_architecture_is_refused_by_name() {
    let file = sample().encode();
    let mut other = sample_of(ArchState::Aarch64(aarch64::tests::state())).encode();
    assert_eq!((file[10], other[10]), (1, 2));
    // The header says x86_64; the sections are those of arm64.
    other[10] = 1;
    let architecture = Architecture::X86_64;
    let error = Snapshot::decode_trusted(&other).unwrap_err();
    assert_eq!(error, SnapshotError::Foreign { section: "arm64 vcpus", architecture });
    let text = "snapshot for amd64 has the section arm64 vcpus of another architecture";
    assert_eq!(error.to_string(), text);
    let mut file = file;
    file[10] = 2;
    let architecture = Architecture::Aarch64;
    let error = Snapshot::decode_trusted(&file).unwrap_err();
    assert_eq!(error, SnapshotError::Foreign { section: "vcpus", architecture });
}

#[test]
fn run_past_the_memory_is_refused() {
    let mut snapshot = sample();
    snapshot.working_set.read = vec![Run { first: u64::MAX - 1, count: u32::MAX }];
    assert!(matches!(
        Snapshot::decode(&snapshot.encode()),
        Err(SnapshotError::Section { section: "working set", .. })
    ));
}

#[test]
fn slot_with_a_missing_disk_is_refused() {
    let mut snapshot = sample();
    snapshot.disks.clear();
    assert!(matches!(
        Snapshot::decode(&snapshot.encode()),
        Err(SnapshotError::Inconsistent { section: "slots", .. })
    ));
}

#[test]
fn wrong_number_of_vcpus_is_refused() {
    for vcpus in [0, 2, 65] {
        let mut snapshot = sample();
        snapshot.machine.vcpus = vcpus;
        assert!(matches!(
            Snapshot::decode(&snapshot.encode()),
            Err(SnapshotError::Inconsistent { section: "vcpus", .. })
        ));
    }
}

#[test]
fn stop_signal_round_trips_and_illegal_one_is_refused() {
    let mut snapshot = sample();
    for (signal, is_legal) in [(1, true), (64, true), (0, false), (65, false)] {
        snapshot.stop = Some(Stop { signal });
        match Snapshot::decode(&snapshot.encode()) {
            Ok(back) => assert_eq!((back, is_legal), (snapshot.clone(), true)),
            Err(error) => {
                assert!(!is_legal);
                assert!(matches!(error, SnapshotError::Inconsistent { section: "stop", .. }));
            }
        }
    }
}

#[test]
fn image_command_round_trips_and_is_optional() {
    let mut snapshot = sample();
    assert_eq!(Snapshot::decode(&snapshot.encode()).unwrap().image_command, None);
    let (entrypoint, command) = (vec!["/entry".into(), "-x".into()], vec!["serve".into()]);
    snapshot.image_command = Some(ImageCommand { entrypoint, command });
    assert_eq!(Snapshot::decode(&snapshot.encode()), Ok(snapshot));
}

#[test]
fn after_restore_round_trips_and_is_optional() {
    let mut snapshot = sample();
    assert_eq!(Snapshot::decode(&snapshot.encode()).unwrap().after_restore, None);
    snapshot.after_restore = Some(AfterRestore { action: "signal:HUP".into() });
    assert_eq!(Snapshot::decode(&snapshot.encode()), Ok(snapshot));
}

#[test]
fn too_many_slots_are_refused() {
    let mut snapshot = sample();
    snapshot.slots.resize(MAX_SLOTS, Slot::Empty);
    assert!(Snapshot::decode(&snapshot.encode()).is_ok());
    snapshot.slots.push(Slot::Empty);
    assert!(matches!(
        Snapshot::decode(&snapshot.encode()),
        Err(SnapshotError::Section { section: "slots", source: DecodeError::TooLarge { .. } })
    ));
}

#[test]
fn too_many_vcpus_are_refused() {
    let mut snapshot = changed(|state| state.vcpus.resize(MAX_VCPUS + 1, vcpu()));
    snapshot.machine.vcpus = 65;
    assert!(matches!(
        Snapshot::decode(&snapshot.encode()),
        Err(SnapshotError::Section { section: "vcpus", source: DecodeError::TooLarge { .. } })
    ));
}

#[test]
fn page_numbers_gather_into_runs() {
    let runs = memory::runs_of([1, 2, 3, 7, 9, 10]);
    let expected = [(1, 3), (7, 1), (9, 2)].map(|(first, count)| Run { first, count });
    assert_eq!(runs, expected);
}

/// The layout is fixed by the format's version. A change here is a new version, not a new
/// number in this test.
#[test]
fn layout_of_version_two_is_locked() {
    assert_eq!((FORMAT_VERSION, HEADER_SIZE, TABLE_ENTRY_SIZE), (2, 36, 48));
    let digest = Digest::of(&without_later_slots(sample()).encode());
    assert_eq!(digest.hex(), include_str!("layout-v2.sha256").trim());
}
