//! Machines of one processor up to the most that a machine can have.

#![expect(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and prints how long the restores took"
)]

use std::time::{Duration, Instant};

use supermachine_test_support::machines::{bake, baked, sh, start};
use supermachine_vmm::arch::MAX_VCPUS;

/// Bakes, restores `rounds` times, and has all processors work at once each time.
fn restore_with(vcpus: u16, memory_mib: u64, rounds: u32) {
    let name = format!("smp-{vcpus}");
    let image = baked(&name, || {
        bake("busybox").vcpus(vcpus).memory_mib(memory_mib).entrypoint(["sleep", "1000000"])
    });
    assert_eq!(image.snapshot().machine.vcpus, vcpus);
    let work = format!(
        "nproc; grep -c ^processor /proc/cpuinfo
        for n in $(seq {vcpus}); do
            (i=0; while [ $i -lt 200 ]; do i=$((i+1)); done; echo $i > /tmp/$n) &
        done
        wait; cat /tmp/[0-9]* | grep -c 200"
    );
    let begin = Instant::now();
    for round in 0..rounds {
        let vm = start(&image);
        assert_eq!(sh(&vm, &work), format!("{vcpus}\n{vcpus}\n{vcpus}\n"), "round {round}");
        vm.stop().unwrap();
    }
    eprintln!("{vcpus} processors, {rounds} restores: {:?}", begin.elapsed());
}

/// Runs a program on each processor in turn. It sleeps there, so the processor's own timer wakes it.
fn every_processor_answers(vcpus: u16, memory_mib: u64) {
    let image = baked(&format!("smp-{vcpus}"), || {
        bake("busybox").vcpus(vcpus).memory_mib(memory_mib).entrypoint(["sleep", "1000000"])
    });
    let vm = start(&image);
    let script = format!(
        "for n in $(seq 0 {}); do
            taskset $(printf %x $((1 << n))) sh -c 'sleep 0.02; cut -d \" \" -f 39 /proc/self/stat'
        done",
        vcpus - 1
    );
    let expected: String = (0..vcpus).map(|n| format!("{n}\n")).collect();
    let begin = Instant::now();
    assert_eq!(sh(&vm, &script), expected);
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}

#[test]
fn one_processor_restores_twenty_times() {
    restore_with(1, 128, 20);
    every_processor_answers(1, 128);
}

#[test]
fn two_processors_restore_twenty_times() {
    restore_with(2, 128, 20);
    every_processor_answers(2, 128);
}

#[test]
fn four_processors_restore_twenty_times() {
    restore_with(4, 128, 20);
    every_processor_answers(4, 128);
}

#[test]
fn sixteen_processors_restore_five_times() {
    restore_with(16, 256, 5);
    every_processor_answers(16, 256);
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn the_most_processors_restore_twice() {
    restore_with(MAX_VCPUS, 512, 2);
    every_processor_answers(MAX_VCPUS, 512);
}
