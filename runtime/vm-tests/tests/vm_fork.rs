//! Forks: machines that continue from where a running one is.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use supermachine::error::InvalidInput;
use supermachine::{Error, VmConfig};
use supermachine_test_support::machines::{self, busybox, scaled, sh};

const RANDOM: &str = "cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | xxd -p";

#[test]
fn forks_continue_from_the_running_machine_each_for_itself() {
    let vm = machines::start(&busybox());
    let count =
        "while :; do n=$((n+1)); echo $n > /tmp/n.new; mv /tmp/n.new /tmp/n; sleep 0.01; done";
    sh(&vm, &format!("echo parent > /tmp/mark; (setsid sh -c '{count}' >/dev/null 2>&1 &)"));
    sh(&vm, "while ! [ -s /tmp/n ]; do sleep 0.01; done");
    let forks = vm.fork(4).unwrap();
    sh(&vm, "echo later > /tmp/mark");
    for (number, fork) in forks.iter().enumerate() {
        assert_eq!(sh(fork, "cat /tmp/mark"), "parent\n");
        sh(fork, &format!("echo {number} > /tmp/mark"));
        // The process of the parent runs on.
        let goes_on =
            "a=$(cat /tmp/n); until [ $(cat /tmp/n) -gt $a ]; do sleep 0.01; done; echo on";
        assert_eq!(sh(fork, goes_on), "on\n");
    }
    assert_eq!(sh(&vm, "cat /tmp/mark"), "later\n");
    drop(vm);
    for (number, fork) in forks.iter().enumerate() {
        assert_eq!(sh(fork, "cat /tmp/mark"), format!("{number}\n"));
    }
}

#[test]
fn forks_differ_in_ids_and_entropy_and_have_the_right_time() {
    let vm = machines::start(&busybox());
    sh(&vm, RANDOM);
    let forks = vm.fork(3).unwrap();
    let all = forks.iter().chain([&vm]);
    let seen: BTreeSet<String> = all.map(|vm| sh(vm, RANDOM)).collect();
    assert_eq!(seen.len(), 4, "{seen:?}");
    for fork in &forks {
        assert!(machines::clock_error(fork).abs() < 5.0);
    }
}

#[test]
fn stream_of_the_parent_continues_and_is_closed_in_forks() {
    let vm = machines::start(&busybox());
    let script = "echo $$ > /tmp/pid; while read line; do echo got $line; done";
    let mut child = vm.exec_builder().argv(["sh", "-c", script]).spawn().unwrap();
    let mut stdin = child.stdin().unwrap();
    sh(&vm, "while ! [ -s /tmp/pid ]; do sleep 0.01; done");
    let fork = vm.fork(1).unwrap().remove(0);
    std::io::Write::write_all(&mut stdin, b"one\ntwo\n").unwrap();
    stdin.close().unwrap();
    let outcome = child.wait_with_output().unwrap();
    assert_eq!(outcome.stdout, b"got one\ngot two\n");
    let gone = "while [ -e /proc/$(cat /tmp/pid) ]; do sleep 0.1; done; echo gone";
    assert_eq!(sh(&fork, gone), "gone\n");
}

#[test]
fn fork_of_a_fork_outlives_both_and_its_snapshot_is_whole() {
    let vm = machines::start(&busybox());
    sh(&vm, "echo first > /tmp/first; head -c 3000000 /dev/urandom > /dev/shm/x");
    let sum = sh(&vm, "md5sum /dev/shm/x");
    let first = vm.fork(1).unwrap().remove(0);
    sh(&first, "echo second > /tmp/second; rm /tmp/first; echo first again > /tmp/first");
    let second = first.fork(1).unwrap().remove(0);
    drop((vm, first));
    let show = "cat /tmp/first /tmp/second; md5sum /dev/shm/x";
    let expected = format!("first again\nsecond\n{sum}");
    assert_eq!(sh(&second, show), expected);
    let taken = second.snapshot("of-a-fork").unwrap();
    drop(second);
    assert_eq!(sh(&machines::start(&taken.image), show), expected);
}

#[test]
fn paused_machine_forks_and_stays_paused() {
    let vm = machines::start(&busybox());
    sh(&vm, "echo paused > /tmp/mark");
    vm.pause().unwrap();
    let forks = vm.fork(2).unwrap();
    assert_eq!(sh(&forks[1], "cat /tmp/mark"), "paused\n");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| sh(&vm, "cat /tmp/mark"));
        thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished());
        vm.resume().unwrap();
        assert_eq!(waiting.join().unwrap(), "paused\n");
    });
}

#[test]
fn many_forks_run_at_once() {
    let vm = machines::start(&busybox());
    sh(&vm, "head -c 4194304 /dev/urandom > /dev/shm/x");
    let sum = sh(&vm, "md5sum /dev/shm/x");
    let count = scaled(100, 16);
    let begin = Instant::now();
    let forks = vm.fork(count).unwrap();
    eprintln!("{count} forks in {:?}", begin.elapsed());
    thread::scope(|scope| {
        for forks in forks.chunks(count.div_ceil(4)) {
            let sum = &sum;
            scope.spawn(move || {
                forks.iter().for_each(|fork| assert_eq!(sh(fork, "md5sum /dev/shm/x"), *sum));
            });
        }
    });
}

#[test]
fn forks_that_cannot_be_are_refused() {
    let vm = machines::start(&busybox());
    assert!(vm.fork(0).unwrap().is_empty());
    let other = VmConfig::new().with_vcpus(7);
    let error = vm.fork_with(1, &other).unwrap_err();
    assert!(
        matches!(&error, Error::Invalid { source: InvalidInput::Mismatch { .. } }),
        "{error:?}"
    );
    let panic = "echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero";
    assert!(vm.exec(["sh", "-c", panic]).is_err());
    let error = vm.fork(1).unwrap_err();
    assert!(matches!(error, Error::Guest { .. }), "{error:?}");
}
