//! The process that holds machines: it panics, forks, and drops things in an odd order. Also
//! commands that are hard to kill or to serve.

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

/// Longer than anything takes, even on a slow host.
const TIMEOUT: Duration = Duration::from_secs(120);

fn settles_at(before: (usize, usize)) {
    let end = Instant::now() + TIMEOUT;
    while held() != before {
        assert!(Instant::now() < end, "{:?}, before {before:?}", held());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs work that must finish in time, on its own thread.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    let thread = thread::spawn(move || sender.send(work()).unwrap());
    let result = receiver.recv_timeout(TIMEOUT);
    let result = result.unwrap_or_else(|error| panic!("did not finish in time: {error}"));
    thread.join().unwrap();
    result
}

#[test]
fn panic_while_holding_a_machine_stops_it() {
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
        panic!("on purpose");
    };
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    settles_at(before);
    assert_eq!(sh(&start(&image), "echo works"), "works\n");
}

#[test]
fn panic_in_one_thread_leaves_the_machine_to_the_others() {
    let _alone = alone();
    let vm = start(&busybox());
    thread::scope(|scope| {
        let panics = scope.spawn(|| {
            let _child = vm.exec_builder().argv(["sleep", "1009"]).spawn().unwrap();
            panic!("on purpose");
        });
        assert!(panics.join().is_err());
    });
    let gone = "i=0; while pidof sleep | grep -q ' ' && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done; ps | grep -c '[s]leep 1009' || true";
    assert_eq!(sh(&vm, gone), "0\n");
}

#[test]
fn machine_and_its_handles_can_be_dropped_in_any_order() {
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

/// The number of descriptors that a child process has.
fn inherited() -> usize {
    let listing = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    String::from_utf8(listing.stdout).unwrap().lines().count()
}

#[test]
fn child_process_inherits_nothing_of_a_machine() {
    let _alone = alone();
    let before = inherited();
    let vm = start(&busybox());
    let _child = vm.exec_builder().argv(["cat"]).spawn().unwrap();
    let _forward = vm.expose_tcp(0, 80).unwrap();
    let _reverse = vm.reverse_tcp(0, ([127, 0, 0, 1], 1)).unwrap();
    assert_eq!(inherited(), before);
}

/// A fork of this process, with copies of all its descriptors and memory.
struct Forked {
    process: i32,
    wake: [i32; 2],
}

impl Forked {
    fn new() -> Self {
        let mut wake = [0; 2];
        // SAFETY: the array has room for the two descriptors.
        assert_eq!(unsafe { libc::pipe(wake.as_mut_ptr()) }, 0);
        // SAFETY: the child calls only what is safe after a fork: close, read and _exit.
        let process = unsafe { libc::fork() };
        assert!(process >= 0);
        if process == 0 {
            let mut byte = 0_u8;
            // SAFETY: the descriptor is the child's own copy.
            unsafe { libc::close(wake[1]) };
            // SAFETY: the buffer has room for the byte that is read.
            unsafe { libc::read(wake[0], (&raw mut byte).cast(), 1) };
            // SAFETY: it exits the child and nothing else.
            unsafe { libc::_exit(7) };
        }
        Self { process, wake }
    }

    /// Lets it exit, and returns its exit code.
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
    // A dropped command is killed, although the fork has copies of its descriptors.
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
fn command_and_entrypoint_that_ignore_signals_are_killed() {
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
        // Time to exit, if the entrypoint did not ignore the signals.
        thread::sleep(Duration::from_millis(500));
        assert!(!waiter.is_finished(), "the entrypoint ignores the signals");
        vm.workload_signal(9).unwrap();
        assert_eq!(waiter.join().unwrap().signal(), Some(9));
    });
    let begin = Instant::now();
    start(&image).stop().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

#[test]
fn program_is_found_in_default_folders_without_a_search_path() {
    let vm = start(&busybox());
    let bare = |program: &str| vm.exec_builder().argv([program, "found"]).env_clear().output();
    for program in ["echo", "/bin/echo"] {
        assert_eq!(succeeded(&bare(program).unwrap(), program), "found\n");
    }
    let outcome = vm.exec_builder().argv(["env"]).env_clear().output().unwrap();
    assert_eq!(outcome.stdout, b"", "the command gets no search path");
    let error = bare("no-such-program").unwrap_err();
    let Error::Agent { failure } = &error else { panic!("{error:?}") };
    assert_eq!((&failure.subject[..], failure.errno), ("no-such-program", 2));
    // A search path that finds nothing is not replaced by the default.
    for (path, found) in [("/nowhere", false), ("/nowhere:/bin", true)] {
        let result = vm.exec_builder().argv(["echo"]).env("PATH", path).output();
        assert_eq!(result.is_ok(), found, "{path}: {result:?}");
    }
}

#[test]
fn guest_out_of_memory_reports_it_and_recovers() {
    let vm = start(&busybox());
    // Memory of the file system, which killing a process does not free.
    let full = "dd if=/dev/zero of=/dev/shm/full bs=1M 2>&1; echo ended; df /dev/shm | tail -n 1";
    let outcome = vm.exec(["sh", "-c", full]).unwrap();
    let output = String::from_utf8_lossy(&outcome.stdout).into_owned();
    assert!(output.contains("No space left on device"), "{output}");
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
