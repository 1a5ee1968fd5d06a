//! Paused machines, and what happens to them meanwhile.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use supermachine::{Error, ExecChild, Image, Vm, VmConfig, async_};
use supermachine_test_support::machines::{
    RESUME_DELAY, bake, baked, busybox, clock_error, scaled, sh, start,
};

/// Longer than anything takes, even on a slow host.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Long enough for a running guest to print something.
const MOMENT: Duration = Duration::from_secs(2);
/// Sets an obviously wrong clock.
const WRONG: &str = "date -s '2020-01-01 00:00:00' > /dev/null";

/// An image whose machines can be reset, as a pool does.
fn resettable() -> Image {
    let image = busybox();
    image.mapped().unwrap();
    image
}

/// Starts a machine with the right clock. The guest learns the time and sets its clock a little later;
/// on a busy host, the delay shows.
fn start_in_time(image: &Image) -> Vm {
    let vm = start(image);
    for _ in 0..20 {
        sh(&vm, WRONG);
        vm.pause().unwrap();
        vm.resume().unwrap();
        if clock_error(&vm) == 0.0 {
            return vm;
        }
    }
    panic!("the guest's clock was wrong 20 times");
}

/// A command in the guest that prints a number ten times a second.
struct Ticks {
    lines: Receiver<u64>,
    child: ExecChild,
}

impl Ticks {
    fn of(vm: &Vm) -> Self {
        let script = "n=0; while :; do echo $n; n=$((n+1)); sleep 0.1; done";
        let mut child = vm.exec_builder().argv(["sh", "-c", script]).spawn().unwrap();
        let stdout = BufReader::new(child.stdout().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line.parse().unwrap()).is_err() {
                    return;
                }
            }
        });
        let ticks = Self { lines, child };
        ticks.assert_running();
        ticks
    }

    /// Discards the lines so far, then waits for another.
    fn assert_running(&self) {
        self.lines.try_iter().for_each(drop);
        self.lines.recv_timeout(TIMEOUT).unwrap();
    }

    /// Discards the lines so far, and asserts that no more come. Silence takes time to observe.
    fn assert_paused(&self) {
        while self.lines.recv_timeout(Duration::from_millis(100)).is_ok() {}
        assert_eq!(self.lines.recv_timeout(MOMENT), Err(RecvTimeoutError::Timeout));
    }
}

#[test]
fn resumed_machine_continues_where_it_was_with_the_hosts_clock() {
    let vm = start_in_time(&busybox());
    let ticks = Ticks::of(&vm);
    let last = ticks.lines.recv_timeout(TIMEOUT).unwrap();
    vm.pause().unwrap();
    // This also lets the host's clock advance.
    ticks.assert_paused();
    vm.resume().unwrap();
    assert_eq!(clock_error(&vm), 0.0);
    // No line is lost or repeated.
    let next = ticks.lines.recv_timeout(TIMEOUT).unwrap();
    assert!(next > last, "{last} {next}");
    assert_eq!(ticks.lines.recv_timeout(TIMEOUT).unwrap(), next + 1);
}

#[test]
fn resume_sets_the_clock() {
    let vm = start(&busybox());
    sh(&vm, WRONG);
    // A machine that was not paused keeps its clock.
    vm.resume().unwrap();
    assert!(clock_error(&vm) > 1e6);
    vm.pause().unwrap();
    vm.resume().unwrap();
    assert!(clock_error(&vm) < RESUME_DELAY);
    sh(&vm, "date -s '2100-01-01 00:00:00' > /dev/null");
    vm.pause().unwrap();
    // A command that waits for the machine sees the right time too.
    thread::scope(|scope| {
        let waiting = scope.spawn(|| sh(&vm, "date +%Y").trim().parse::<u32>().unwrap());
        // The host cannot see when the request waits in the paused guest.
        thread::sleep(Duration::from_millis(300));
        vm.resume().unwrap();
        assert!(waiting.join().unwrap() < 2100);
    });
    assert!(clock_error(&vm) < RESUME_DELAY);
}

#[test]
fn pause_and_resume_are_idempotent_and_thread_safe() {
    let vm = start(&busybox());
    let ticks = Ticks::of(&vm);
    vm.pause().unwrap();
    vm.pause().unwrap();
    ticks.assert_paused();
    vm.resume().unwrap();
    vm.resume().unwrap();
    ticks.assert_running();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    vm.pause().unwrap();
                    vm.resume().unwrap();
                }
            });
        }
        scope.spawn(|| {
            for n in 0..5 {
                assert_eq!(sh(&vm, &format!("echo {n}")), format!("{n}\n"));
            }
        });
    });
    vm.resume().unwrap();
    ticks.assert_running();
    drop(ticks.child);
    vm.stop().unwrap();
}

#[test]
fn calls_on_a_paused_machine_wait_until_it_resumes() {
    let vm = start(&busybox());
    vm.pause().unwrap();
    thread::scope(|scope| {
        let outcome = scope.spawn(|| sh(&vm, "echo done"));
        let file = scope.spawn(|| vm.write_file("/tmp/file", "content").unwrap());
        let stats = scope.spawn(|| vm.stats().unwrap());
        // Time to finish, if the machine were not paused.
        thread::sleep(MOMENT);
        assert!(!outcome.is_finished() && !file.is_finished() && !stats.is_finished());
        vm.resume().unwrap();
        assert_eq!(outcome.join().unwrap(), "done\n");
        file.join().unwrap();
        assert!(stats.join().unwrap().memory_total_kib > 0);
    });
    assert_eq!(vm.read_file("/tmp/file").unwrap(), b"content");
    // A command's time limit keeps running.
    let builder = vm.exec_builder().argv(["sleep", "1000"]).timeout(Duration::from_secs(1));
    let mut child = builder.spawn().unwrap();
    vm.pause().unwrap();
    // Longer than the time limit.
    thread::sleep(MOMENT);
    assert!(child.try_wait().unwrap().is_none());
    vm.resume().unwrap();
    assert!(child.wait().unwrap().timed_out);
}

#[test]
fn paused_machine_closes_its_streams_when_stopped_or_dropped() {
    for is_stopped in [true, false] {
        let vm = start(&busybox());
        let mut child = vm.exec_builder().argv(["sleep", "1000"]).spawn().unwrap();
        vm.pause().unwrap();
        let begin = Instant::now();
        if is_stopped {
            vm.stop().unwrap();
        } else {
            drop(vm);
        }
        assert!(matches!(child.wait(), Err(Error::Stopped)));
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    }
}

#[test]
fn snapshot_of_a_paused_machine_leaves_it_paused() {
    let vm = start(&busybox());
    sh(&vm, "echo mark > /tmp/mark");
    sh(&vm, WRONG);
    let ticks = Ticks::of(&vm);
    vm.pause().unwrap();
    let first = vm.snapshot("paused").unwrap();
    let second = vm.snapshot("paused-again").unwrap();
    ticks.assert_paused();
    for image in [first.image, second.image] {
        let other = start(&image);
        assert_eq!(sh(&other, "cat /tmp/mark"), "mark\n");
        // The clock is the host's, not the machine's.
        assert!(clock_error(&other).abs() < 60.0);
    }
    ticks.assert_paused();
    vm.resume().unwrap();
    ticks.assert_running();
}

#[test]
fn pooled_machine_released_while_paused_serves_the_next_user() {
    for restores in [true, false] {
        let image = resettable();
        let builder = image.pool().max(1).acquire_timeout(TIMEOUT);
        let pool = builder.restore_on_release(restores).build().unwrap();
        for _ in 0..3 {
            let vm = pool.acquire().unwrap();
            assert_eq!(sh(&vm, "echo serves"), "serves\n");
            assert!(clock_error(&vm).abs() < 60.0);
            sh(&vm, WRONG);
            vm.pause().unwrap();
        }
        assert_eq!(pool.stats().created, 1);
        let taken = pool.acquire().unwrap();
        taken.pause().unwrap();
        let taken = taken.into_inner();
        taken.resume().unwrap();
        assert_eq!(sh(&taken, "echo serves"), "serves\n");
    }
}

#[test]
fn guest_that_has_failed_is_neither_paused_nor_resumed() {
    let vm = start(&busybox());
    let panic = "echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero";
    assert!(matches!(vm.exec(["sh", "-c", panic]), Err(Error::Guest { .. })));
    for result in [vm.pause(), vm.resume()] {
        let Err(Error::Guest { .. }) = &result else { panic!("{result:?}") };
    }
}

#[test]
fn every_processor_pauses_and_resumes() {
    let image = baked("two", || bake("busybox").vcpus(2).entrypoint(["sleep", "1000000"]));
    let vm = start_in_time(&image);
    // Both processors are busy, and interrupt each other.
    let busy = "while :; do :; done & while :; do echo x; done | while read x; do :; done";
    let child = vm.exec_builder().argv(["sh", "-c", busy]).spawn().unwrap();
    for round in 0..10 {
        vm.pause().unwrap();
        // The length of the pause is what varies.
        thread::sleep(Duration::from_millis(20 * round));
        vm.resume().unwrap();
    }
    drop(child);
    assert_eq!(sh(&vm, "nproc"), "2\n");
    assert_eq!(clock_error(&vm), 0.0);
}

/// In a full run, the pause exceeds the limit after which a kernel reports a stalled processor.
#[test]
fn guest_reports_no_fault_after_a_long_pause() {
    let image = baked("two", || bake("busybox").vcpus(2).entrypoint(["sleep", "1000000"]));
    let vm = start_in_time(&image);
    // Short-lived processes make the kernel wait for its processors all the time.
    let busy = "while :; do true; /bin/true; done & while :; do /bin/true; done";
    let child = vm.exec_builder().argv(["sh", "-c", busy]).spawn().unwrap();
    let before = vm.console();
    for _ in 0..3 {
        vm.pause().unwrap();
        thread::sleep(Duration::from_secs(scaled(40, 1)));
        vm.resume().unwrap();
        sh(&vm, "sleep 1; sync");
        assert_eq!(clock_error(&vm), 0.0);
    }
    drop(child);
    let console = vm.console();
    assert!(console == before, "{}", String::from_utf8_lossy(&console));
}

#[test]
fn nonblocking_pause_and_resume_work() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let vm = async_::Vm::start(&busybox(), &VmConfig::new()).await.unwrap();
        vm.pause().await.unwrap();
        let waiting = tokio::time::timeout(MOMENT, vm.exec(["true"])).await;
        assert!(waiting.is_err(), "a paused machine answered");
        vm.resume().await.unwrap();
        assert!(vm.exec(["true"]).await.unwrap().success());
        vm.pause().await.unwrap();
        vm.stop().await.unwrap();
    });
}
