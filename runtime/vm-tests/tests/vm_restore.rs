//! Many machines from one snapshot: each continues from the capture, and no two are alike.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use supermachine::{Image, RestoreMode, VmConfig};
use supermachine_test_support::machines::{
    self, RESUME_DELAY, bake, baked, busybox, clock_error, sh, start, succeeded,
};

/// A loop that starts before the capture, and logs the time of each round.
fn ticking() -> Image {
    let script = "while :; do echo $(cut -d ' ' -f 1 /proc/uptime) >> /tmp/ticks; sleep 0.1; done";
    baked("ticking", || bake("busybox").entrypoint(["sh", "-c", script]))
}

#[test]
fn a_hundred_restores_each_run_a_command() {
    let image = busybox();
    let begin = Instant::now();
    for round in 0..100 {
        let vm = image.start(&VmConfig::new()).unwrap();
        let outcome = vm.exec(["echo", &round.to_string()]).unwrap();
        assert_eq!(succeeded(&outcome, "echo"), format!("{round}\n"));
        vm.stop().unwrap();
    }
    eprintln!("100 restores with a command each: {:?}", begin.elapsed());
}

#[test]
fn machines_of_one_snapshot_have_different_random_values() {
    let image = busybox();
    let random = |vm: &supermachine::Vm| {
        let text = sh(
            vm,
            "head -c 32 /dev/urandom | md5sum; head -c 32 /dev/random | md5sum
            cat /proc/sys/kernel/random/uuid; cat /proc/sys/kernel/random/boot_id
            mktemp -u",
        );
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let machines: Vec<_> = (0..4).map(|_| random(&start(&image))).collect();
    for place in 0..5 {
        let values: HashSet<_> = machines.iter().map(|values| &values[place]).collect();
        assert_eq!(values.len(), machines.len(), "{machines:?}");
    }
}

#[test]
fn boot_id_stays_the_same_within_a_machine() {
    let vm = start(&busybox());
    let id = || sh(&vm, "cat /proc/sys/kernel/random/boot_id");
    let first = id();
    assert_eq!(first.len(), 37);
    assert_eq!(first, id());
}

#[test]
fn machine_id_of_the_image_differs_from_machine_to_machine() {
    let image = baked("layers", || bake("layers").entrypoint(["sleep", "1000000"]));
    let ids: HashSet<_> = (0..3).map(|_| sh(&start(&image), "cat /etc/machine-id")).collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
    for id in &ids {
        let digits = id.strip_suffix('\n').unwrap();
        assert!(digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{id:?}");
        assert_ne!(digits, "0123456789abcdef0123456789abcdef");
    }
}

#[test]
fn wall_clock_is_the_hosts() {
    let image = busybox();
    // So that the snapshot's clock would be wrong.
    thread::sleep(Duration::from_secs(2));
    let mut in_time = 0;
    for _ in 0..20 {
        let vm = start(&image);
        let error = clock_error(&vm);
        assert!(error < RESUME_DELAY, "{error}");
        // On a busy host the guest learns the time late, and stays behind.
        if error > 0.0 {
            continue;
        }
        // Half a second shows a clock that runs at the wrong speed.
        for pause in [0, 500] {
            thread::sleep(Duration::from_millis(pause));
            assert_eq!(clock_error(&vm), 0.0);
        }
        in_time += 1;
        if in_time == 3 {
            return;
        }
    }
    panic!("{in_time} of 20 machines had the host's time");
}

#[test]
fn sleeping_loop_continues_without_a_jump() {
    let image = ticking();
    let captured = {
        let vm = start(&image);
        sh(&vm, "cat /tmp/ticks").lines().count()
    };
    // A monotonic clock that counted between the machines would jump by this.
    thread::sleep(Duration::from_secs(3));
    let vm = start(&image);
    let more = captured + 4;
    let text = sh(
        &vm,
        &format!("while [ $(wc -l < /tmp/ticks) -lt {more} ]; do sleep 0.1; done; cat /tmp/ticks"),
    );
    let ticks: Vec<f64> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!(ticks.len() >= more, "{captured} ticks, then {}", ticks.len());
    let gaps: Vec<f64> = ticks.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (0.0..2.0).contains(gap)), "{gaps:?}");
}

#[test]
fn ten_machines_live_at_once() {
    let image = busybox();
    let machines: Vec<_> = (0..10).map(|_| start(&image)).collect();
    for (n, vm) in machines.iter().enumerate() {
        sh(vm, &format!("echo {n} > /tmp/own"));
    }
    thread::scope(|scope| {
        for (n, vm) in machines.iter().enumerate() {
            scope.spawn(move || assert_eq!(sh(vm, "cat /tmp/own"), format!("{n}\n")));
        }
    });
    for vm in machines {
        vm.stop().unwrap();
    }
}

#[test]
fn first_start_pages_on_demand_and_later_ones_map_files() {
    let image = busybox();
    let open = |cache: &std::path::Path| {
        Image::open(image.source().clone(), image.digest(), cache).unwrap()
    };
    let (begin, cache) = (Instant::now(), machines::folder().join("on-demand"));
    let fresh = open(&cache);
    let vm = start(&fresh);
    assert_eq!(
        vm.timings().restore_mode(),
        RestoreMode::OnDemand,
        "these tests need a user with userfaultfd"
    );
    // Uses more than a start and a command do: the whole program, and much memory.
    let script =
        "md5sum /bin/busybox; head -c 20000000 /dev/zero > /tmp/a; md5sum /tmp/a; rm /tmp/a";
    let on_demand = sh(&vm, script);
    let mapped = loop {
        let vm = start(&open(&cache));
        if vm.timings().restore_mode() == RestoreMode::Mapped {
            break vm;
        }
        assert!(begin.elapsed() < Duration::from_secs(120), "the mapped form is not made");
    };
    assert_eq!(sh(&mapped, script), on_demand);
    // The first machine keeps working.
    assert_eq!(sh(&vm, script), on_demand);
    let vm = open(&machines::folder().join("expanded"))
        .start(&VmConfig::new().with_expand_first(true))
        .unwrap();
    assert_eq!(vm.timings().restore_mode(), RestoreMode::Expanded);
    assert_eq!(sh(&vm, script), on_demand);
}

/// Runs in its own process, so that it does not count threads and descriptors of other tests.
#[test]
fn stopped_machines_leave_no_threads_or_descriptors() {
    const WITHIN: &str = "SUPERMACHINE_TEST_COUNTS";
    if let Some(store) = std::env::var_os(WITHIN) {
        return count_leftovers(&Image::from_store(store, "busybox").unwrap());
    }
    busybox();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stopped_machines_leave_no_threads_or_descriptors", "--nocapture"])
        .env(WITHIN, machines::store().dir())
        .env("XDG_CACHE_HOME", machines::folder().join("second-cache"))
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

fn count_leftovers(image: &Image) {
    // Expanded now, so that no thread expands it during the count.
    image.mapped().unwrap();
    let count = |folder| fs::read_dir(folder).unwrap().count();
    let counts = || (count("/proc/self/task"), count("/proc/self/fd"));
    let mut before = None;
    for round in 0..20 {
        let vm = start(image);
        // Programs that still run when the machine stops.
        sh(&vm, "(sleep 1000 &) ; (while :; do :; done &)");
        let begin = Instant::now();
        drop(vm);
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(2), "round {round}: {took:?}");
        if round == 0 {
            // What the process makes once is no leftover. No event says when the teardown in the
            // background is over.
            thread::sleep(Duration::from_millis(500));
            before = Some(counts());
        }
    }
    // Teardown continues in the background.
    let end = Instant::now() + Duration::from_secs(20);
    while Some(counts()) != before && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(Some(counts()), before);
}
