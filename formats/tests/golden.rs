//! State files of real machines: every later build reads them, and writes the same bytes.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use supermachine_formats::snapshot::arch::aarch64::{Gic, State};
use supermachine_formats::snapshot::arch::{ArchState, Baseline};
use supermachine_formats::snapshot::{HypervisorFamily, Snapshot, Stage};

/// Busybox, baked by KVM on a Neoverse N1 that QEMU emulates, with one vCPU and 64 MiB.
const ARM64: &[u8] = include_bytes!("golden/state-v2-aarch64");
/// MIDR_EL1 of that core.
const NEOVERSE_N1: u64 = 0x414f_d0c1;
/// The frequency of QEMU's counter.
const FREQUENCY_HZ: u32 = 62_500_000;

fn arm64(snapshot: &Snapshot) -> &State {
    let ArchState::Aarch64(state) = &snapshot.arch else { panic!("{:?}", snapshot.arch) };
    state
}

/// Changed bytes need a new version of the format, not a new file here.
#[test]
fn state_of_a_baked_arm64_machine_is_read_and_written_unchanged() {
    let snapshot = Snapshot::decode(ARM64).unwrap();
    assert!(snapshot.encode() == ARM64, "other bytes");
    assert_eq!(
        (snapshot.hypervisor, snapshot.machine.stage),
        (HypervisorFamily::Kvm, Stage::Image)
    );
    assert_eq!((snapshot.machine.vcpus, snapshot.machine.memory_size), (1, 64 << 20));
    assert_eq!(snapshot.workload.unwrap().argv, ["true"]);
}

#[test]
fn baked_arm64_machine_has_the_registers_of_its_core_counter_and_interrupt_controller() {
    let snapshot = Snapshot::decode(ARM64).unwrap();
    let state = arm64(&snapshot);
    assert_eq!(state.processor.baseline, Baseline::Armv8_2);
    assert_eq!(state.processor.midr, NEOVERSE_N1);
    assert_eq!(state.counter.frequency_hz, FREQUENCY_HZ);
    assert!(state.counter.value > 0 && state.counter.realtime_ns > 0);
    let [vcpu] = &state.vcpus[..] else { panic!("{:?}", state.vcpus) };
    assert!(vcpu.core.is_some() && vcpu.simd.is_some() && vcpu.timers.is_some());
    assert!(!vcpu.system.is_empty() && !vcpu.cpu_interface.is_empty());
    let Gic::Registers(gic) = &state.gic else { panic!("{:?}", state.gic) };
    assert_eq!(gic.redistributors.len(), 1);
    // The kernel has set up at least its timer's interrupt and those of the devices.
    assert!(!gic.distributor.is_empty() && !gic.redistributors[0].registers.is_empty());
}
