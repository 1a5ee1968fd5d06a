//! Machines that stand still for a while, and whatever happens to them meanwhile.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use supermachine::{Error, ExecChild, Image, Vm, VmConfig, async_};
use supermachine_test_support::machines::{
    UNDER_WAY, bake, baked, busybox, clock_error, scaled, sh, start,
};

/// Longer than anything takes, on the slowest of hosts.
const PATIENCE: Duration = Duration::from_secs(120);
/// Long enough for a guest that runs to say something.
const MOMENT: Duration = Duration::from_secs(2);
/// A clock that nobody takes for right.
const WRONG: &str = "date -s '2020-01-01 00:00:00' > /dev/null";

/// A machine that can be put back to its snapshot, as a pool does.
fn resettable() -> Image {
    let image = busybox();
    image.mapped().unwrap();
    image
}

/// A machine with the right clock. The guest hears what time it is, and sets its clock some time
/// later: the later, the busier the host is.
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

/// A command in the guest that says something ten times a second, and what it says.
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
        ticks.go_on();
        ticks
    }

    /// Takes what was said until now, then waits for more.
    fn go_on(&self) {
        self.lines.try_iter().for_each(drop);
        self.lines.recv_timeout(PATIENCE).unwrap();
    }

    /// Takes what was said until now, and sees that no more comes.
    fn stand_still(&self) {
        while self.lines.recv_timeout(Duration::from_millis(100)).is_ok() {}
        assert_eq!(self.lines.recv_timeout(MOMENT), Err(RecvTimeoutError::Timeout));
    }
}

#[test]
fn paused_machine_stands_still_and_goes_on_where_it_was_with_the_hosts_clock() {
    let vm = start_in_time(&busybox());
    let ticks = Ticks::of(&vm);
    let last = ticks.lines.recv_timeout(PATIENCE).unwrap();
    vm.pause().unwrap();
    thread::sleep(Duration::from_secs(3));
    ticks.stand_still();
    vm.resume().unwrap();
    assert_eq!(clock_error(&vm), 0.0);
    // Nothing of what the command says is lost or said twice.
    let next = ticks.lines.recv_timeout(PATIENCE).unwrap();
    assert!(next > last, "{last} {next}");
    assert_eq!(ticks.lines.recv_timeout(PATIENCE).unwrap(), next + 1);
}

#[test]
fn clock_that_has_not_gone_on_is_set_when_the_machine_goes_on() {
    let vm = start(&busybox());
    sh(&vm, WRONG);
    // What was not paused keeps the clock that it has.
    vm.resume().unwrap();
    assert!(clock_error(&vm) > 1e6);
    vm.pause().unwrap();
    vm.resume().unwrap();
    assert!(clock_error(&vm) < UNDER_WAY);
    sh(&vm, "date -s '2100-01-01 00:00:00' > /dev/null");
    vm.pause().unwrap();
    // A command that waits for the machine has the right time too.
    thread::scope(|scope| {
        let waiting = scope.spawn(|| sh(&vm, "date +%Y").trim().parse::<u32>().unwrap());
        thread::sleep(Duration::from_millis(300));
        vm.resume().unwrap();
        assert!(waiting.join().unwrap() < 2100);
    });
    assert!(clock_error(&vm) < UNDER_WAY);
}

#[test]
fn pause_and_resume_may_be_called_twice_and_by_many_at_once() {
    let vm = start(&busybox());
    let ticks = Ticks::of(&vm);
    vm.pause().unwrap();
    vm.pause().unwrap();
    ticks.stand_still();
    vm.resume().unwrap();
    vm.resume().unwrap();
    ticks.go_on();
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
    ticks.go_on();
    drop(ticks.child);
    vm.stop().unwrap();
}

#[test]
fn what_is_asked_of_a_paused_machine_waits_until_it_goes_on() {
    let vm = start(&busybox());
    vm.pause().unwrap();
    thread::scope(|scope| {
        let outcome = scope.spawn(|| sh(&vm, "echo done"));
        let file = scope.spawn(|| vm.write_file("/tmp/file", "content").unwrap());
        let stats = scope.spawn(|| vm.stats().unwrap());
        thread::sleep(MOMENT);
        assert!(!outcome.is_finished() && !file.is_finished() && !stats.is_finished());
        vm.resume().unwrap();
        assert_eq!(outcome.join().unwrap(), "done\n");
        file.join().unwrap();
        assert!(stats.join().unwrap().memory_total_kib > 0);
    });
    assert_eq!(vm.read_file("/tmp/file").unwrap(), b"content");
    // Time goes on for a command's time-out.
    let builder = vm.exec_builder().argv(["sleep", "1000"]).timeout(Duration::from_secs(1));
    let mut child = builder.spawn().unwrap();
    vm.pause().unwrap();
    thread::sleep(MOMENT);
    assert!(child.try_wait().unwrap().is_none());
    vm.resume().unwrap();
    assert!(child.wait().unwrap().timed_out);
}

#[test]
fn paused_machine_can_be_stopped_and_dropped_and_ends_its_streams() {
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
fn snapshot_of_a_paused_machine_runs_and_the_machine_stays_paused() {
    let vm = start(&busybox());
    sh(&vm, "echo mark > /tmp/mark");
    sh(&vm, WRONG);
    let ticks = Ticks::of(&vm);
    vm.pause().unwrap();
    let first = vm.snapshot("paused").unwrap();
    let second = vm.snapshot("paused-again").unwrap();
    ticks.stand_still();
    for image in [first.image, second.image] {
        let other = start(&image);
        assert_eq!(sh(&other, "cat /tmp/mark"), "mark\n");
        // Not the machine's own.
        assert!(clock_error(&other).abs() < 60.0);
    }
    ticks.stand_still();
    vm.resume().unwrap();
    ticks.go_on();
}

#[test]
fn pooled_machine_that_is_given_back_paused_serves_the_next_user() {
    for restores in [true, false] {
        let image = resettable();
        let builder = image.pool().max(1).acquire_timeout(PATIENCE);
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
fn guest_that_has_ended_is_neither_paused_nor_resumed() {
    let vm = start(&busybox());
    let panic = "echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero";
    assert!(matches!(vm.exec(["sh", "-c", panic]), Err(Error::Guest { .. })));
    for result in [vm.pause(), vm.resume()] {
        let Err(Error::Guest { .. }) = &result else { panic!("{result:?}") };
    }
}

#[test]
fn every_processor_stands_still_and_goes_on() {
    let image = baked("two", || bake("busybox").vcpus(2).entrypoint(["sleep", "1000000"]));
    let vm = start_in_time(&image);
    // Both are in the guest most of the time, and have interrupts for each other.
    let busy = "while :; do :; done & while :; do echo x; done | while read x; do :; done";
    let child = vm.exec_builder().argv(["sh", "-c", busy]).spawn().unwrap();
    for round in 0..10 {
        vm.pause().unwrap();
        thread::sleep(Duration::from_millis(20 * round));
        vm.resume().unwrap();
    }
    drop(child);
    assert_eq!(sh(&vm, "nproc"), "2\n");
    assert_eq!(clock_error(&vm), 0.0);
}

/// In a full run the pause is longer than a kernel waits for a processor that says nothing.
#[test]
fn guest_does_not_take_a_long_pause_for_a_fault() {
    let image = baked("two", || bake("busybox").vcpus(2).entrypoint(["sleep", "1000000"]));
    let vm = start_in_time(&image);
    // Processes that come and go have the kernel wait for its processors all the time.
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
fn machine_is_paused_by_who_awaits_too() {
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
