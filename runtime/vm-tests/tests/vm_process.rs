//! The program that holds machines: what becomes of them when it panics, forks, or lets go of
//! things in an odd order; and commands that make it hard.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use supermachine::{Error, Vm};
use supermachine_test_support::machines::{
    alone, bake, baked, busybox, held, sh, start, succeeded,
};

/// Longer than anything takes, on the slowest of hosts.
const PATIENCE: Duration = Duration::from_secs(120);

fn settles_at(before: (usize, usize)) {
    let end = Instant::now() + PATIENCE;
    while held() != before {
        assert!(Instant::now() < end, "{:?}, before {before:?}", held());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Does something that must end in time, on a thread of its own.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    let thread = thread::spawn(move || sender.send(work()).unwrap());
    let result = receiver.recv_timeout(PATIENCE);
    let result = result.unwrap_or_else(|error| panic!("did not end in time: {error}"));
    thread.join().unwrap();
    result
}

#[test]
fn panic_while_holding_a_machine_ends_it() {
    let _alone = alone();
    let image = busybox();
    start(&image).stop().unwrap();
    let before = held();
    let panics = || {
        let vm = start(&image);
        let mut child = vm.exec_builder().argv(["cat"]).spawn().unwrap();
        let _forward = vm.expose_tcp(0, 80).unwrap();
        let _input = child.stdin();
        sh(&vm, "echo works");
        panic!("as the test asks for");
    };
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    settles_at(before);
    assert_eq!(sh(&start(&image), "echo works"), "works\n");
}

#[test]
fn panic_of_a_thread_that_uses_a_machine_leaves_it_to_the_others() {
    let _alone = alone();
    let vm = start(&busybox());
    thread::scope(|scope| {
        let panics = scope.spawn(|| {
            let _child = vm.exec_builder().argv(["sleep", "1009"]).spawn().unwrap();
            panic!("as the test asks for");
        });
        assert!(panics.join().is_err());
    });
    let gone = "i=0; while pidof sleep | grep -q ' ' && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done; ps | grep -c '[s]leep 1009' || true";
    assert_eq!(sh(&vm, gone), "0\n");
}

#[test]
fn machine_and_all_that_comes_of_it_are_dropped_in_any_order() {
    let _alone = alone();
    let image = busybox();
    start(&image).stop().unwrap();
    let before = held();
    for order in 0..4 {
        let vm = start(&image);
        let mut child = vm.exec_builder().argv(["cat"]).spawn().unwrap();
        let (stdin, stdout) = (child.stdin().unwrap(), child.stdout().unwrap());
        let forward = vm.expose_tcp(0, 80).unwrap();
        let reverse = vm.reverse_tcp(0, ([127, 0, 0, 1], 1)).unwrap();
        let writer = vm.file_writer("/tmp/file").unwrap();
        in_time(move || match order {
            0 => drop((vm, child, stdin, stdout, forward, reverse, writer)),
            1 => drop((writer, reverse, forward, stdout, stdin, child, vm)),
            2 => drop((stdin, vm, stdout, child, writer, forward, reverse)),
            _ => drop((forward, stdout, child, vm, writer, reverse, stdin)),
        });
        settles_at(before);
    }
}

/// How many descriptors a program has that this one starts.
fn inherited() -> usize {
    let listing = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    String::from_utf8(listing.stdout).unwrap().lines().count()
}

#[test]
fn program_that_is_started_inherits_nothing_of_a_machine() {
    let _alone = alone();
    let before = inherited();
    let vm = start(&busybox());
    let _child = vm.exec_builder().argv(["cat"]).spawn().unwrap();
    let _forward = vm.expose_tcp(0, 80).unwrap();
    let _reverse = vm.reverse_tcp(0, ([127, 0, 0, 1], 1)).unwrap();
    assert_eq!(inherited(), before);
}

/// A process that this one forked, which holds all that this one held then.
struct Forked {
    process: i32,
    wake: [i32; 2],
}

impl Forked {
    fn new() -> Self {
        let mut wake = [0; 2];
        // SAFETY: the array has room for the two descriptors.
        assert_eq!(unsafe { libc::pipe(wake.as_mut_ptr()) }, 0);
        // SAFETY: the child only calls what may be called behind a fork: close, read and _exit.
        let process = unsafe { libc::fork() };
        assert!(process >= 0);
        if process == 0 {
            let mut byte = 0_u8;
            // SAFETY: the descriptor is the child's own copy.
            unsafe { libc::close(wake[1]) };
            // SAFETY: the buffer has room for the byte that is read.
            unsafe { libc::read(wake[0], (&raw mut byte).cast(), 1) };
            // SAFETY: it ends the child and nothing else.
            unsafe { libc::_exit(7) };
        }
        Self { process, wake }
    }

    /// Lets it end, and tells with which code it did.
    fn end(self) -> i32 {
        for descriptor in self.wake {
            // SAFETY: both are ours, and not used again.
            unsafe { libc::close(descriptor) };
        }
        let mut status = 0;
        // SAFETY: the status has room for what is written.
        assert_eq!(unsafe { libc::waitpid(self.process, &raw mut status, 0) }, self.process);
        libc::WEXITSTATUS(status)
    }
}

#[test]
fn fork_of_the_process_leaves_its_machines_to_the_parent() {
    let _alone = alone();
    let image = busybox();
    let vm = start(&image);
    sh(&vm, "head -c 8388608 /dev/urandom > /tmp/random; md5sum /tmp/random > /tmp/sum");
    let mut cat = vm.exec_builder().argv(["cat"]).spawn().unwrap();
    let (mut stdin, mut stdout) = (cat.stdin().unwrap(), cat.stdout().unwrap());
    let sleeper = vm.exec_builder().argv(["sleep", "1010"]).spawn().unwrap();
    let forked = Forked::new();
    // The guest's memory is as it was, and can be written.
    assert_eq!(sh(&vm, "md5sum -c -s /tmp/sum && echo same"), "same\n");
    sh(&vm, "head -c 8388608 /dev/urandom > /tmp/random");
    stdin.write_all(b"through").unwrap();
    let mut bytes = [0; 7];
    stdout.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"through");
    assert_eq!(sh(&start(&image), "echo another"), "another\n");
    // What is let go of ends, although the other process still has copies of its descriptors.
    drop(sleeper);
    let gone = "i=0; while ps | grep -q '[s]leep 1010' && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done; ps | grep -c '[s]leep 1010' || true";
    assert_eq!(sh(&vm, gone), "0\n");
    vm.stop().unwrap();
    in_time(move || {
        assert!(stdout.read(&mut [0]).is_err());
        assert!(matches!(cat.wait(), Err(Error::Stopped)));
    });
    assert_eq!(forked.end(), 7);
}

#[test]
fn command_and_entrypoint_that_ignore_signals_are_killed_all_the_same() {
    let script = "trap '' TERM INT HUP QUIT; while :; do sleep 1; done";
    let image = baked("deaf", || bake("busybox").entrypoint(["sh", "-c", script]));
    let vm = start(&image);
    let builder = vm.exec_builder().argv(["sh", "-c", script]);
    let outcome = builder.timeout(Duration::from_secs(2)).output().unwrap();
    assert!(outcome.timed_out);
    assert_eq!(outcome.status.signal(), Some(9));
    for signal in [15, 2, 1, 3] {
        vm.workload_signal(signal).unwrap();
    }
    thread::scope(|scope| {
        let waiter = scope.spawn(|| vm.wait().unwrap());
        thread::sleep(Duration::from_millis(500));
        assert!(!waiter.is_finished(), "it ignores them");
        vm.workload_signal(9).unwrap();
        assert_eq!(waiter.join().unwrap().signal(), Some(9));
    });
    let begin = Instant::now();
    start(&image).stop().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

#[test]
fn program_is_found_in_the_usual_places_without_a_search_path() {
    let vm = start(&busybox());
    let bare = |program: &str| vm.exec_builder().argv([program, "found"]).env_clear().output();
    for program in ["echo", "/bin/echo"] {
        assert_eq!(succeeded(&bare(program).unwrap(), program), "found\n");
    }
    let outcome = vm.exec_builder().argv(["env"]).env_clear().output().unwrap();
    assert_eq!(outcome.stdout, b"", "the command itself is told of no search path");
    let error = bare("no-such-program").unwrap_err();
    let Error::Agent { failure } = &error else { panic!("{error:?}") };
    assert_eq!((&failure.subject[..], failure.errno), ("no-such-program", 2));
    // A search path that leads nowhere is not another one.
    for (path, found) in [("/nowhere", false), ("/nowhere:/bin", true)] {
        let result = vm.exec_builder().argv(["echo"]).env("PATH", path).output();
        assert_eq!(result.is_ok(), found, "{path}: {result:?}");
    }
}

#[test]
fn guest_without_memory_says_so_and_serves_again() {
    let vm = start(&busybox());
    // Kernel memory of the file system, which nobody can be killed for.
    let full = "dd if=/dev/zero of=/dev/shm/full bs=1M 2>&1; echo ended; df /dev/shm | tail -n 1";
    let told = vm.exec(["sh", "-c", full]).unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("No space left on device"), "{told}");
    for _ in 0..3 {
        let outcome = vm.exec(["sh", "-c", "tail /dev/zero; echo no memory"]).unwrap();
        assert_ne!(outcome.stdout, b"");
    }
    sh(&vm, "rm /dev/shm/full");
    assert_eq!(sh(&vm, "echo usable"), "usable\n");
    assert!(memory_used(&vm) < 64 << 10);
}

fn memory_used(vm: &Vm) -> u64 {
    vm.stats().unwrap().memory_used_kib
}
