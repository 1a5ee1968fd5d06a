//! Captures of running machines: the machine continues undisturbed, and another one continues from
//! the snapshot.

#![expect(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and prints how long a guest was stopped"
)]

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use supermachine::agent::{Replies, next_event, resume};
use supermachine::error::InvalidInput;
use supermachine::{Error, Image, RestoreMode, Timings};
use supermachine_formats::wire::{Command, Control, Event, Input, Reply, Request, STDIN_WINDOW};
use supermachine_test_support::machines::{self, busybox, sh};
use supermachine_vmm::{Captured, Machine, Origin, Restore};

/// Longer than any answer takes, even on a slow host.
const TIMEOUT: Duration = Duration::from_secs(120);
const PAGE: u64 = 4096;
const PIECE: usize = 32 << 10;

/// A running machine, with its control stream.
struct Live {
    machine: Machine,
    control: UnixStream,
}

impl Live {
    fn of(image: &Image) -> Self {
        let mapped = image.mapped().unwrap().clone();
        let origin = Origin::Files { memory: mapped.memory, disks: mapped.disks };
        let parts = Restore::new(Arc::clone(image.snapshot()), origin);
        let machine = Machine::restore(parts, &mut Timings::start()).unwrap();
        let control = machine.control().unwrap();
        machine.send_control(&Control::Resume(resume(None).unwrap())).unwrap();
        machine.run();
        let mut live = Self { machine, control };
        assert_eq!(live.event(), Event::Resumed);
        live
    }

    fn event(&mut self) -> Event {
        next_event(&self.machine, &mut self.control, Some(TIMEOUT)).unwrap()
    }

    fn exec(&self, argv: &[&str], stdin: bool) -> Replies {
        let argv = argv.iter().map(|text| text.as_bytes().to_vec()).collect();
        let command = Command { argv, stdin, ..Command::default() };
        let mut replies = Replies::open(&self.machine, &Request::Exec(command)).unwrap();
        replies.set_limit(Some(TIMEOUT)).unwrap();
        replies
    }

    fn sh(&self, script: &str) -> String {
        let output = output_of(&mut self.exec(&["sh", "-c", script], false));
        String::from_utf8(output).unwrap()
    }

    fn capture(&self) -> Captured {
        let captured = self.machine.capture_live().unwrap();
        let pages = captured.dirty.count();
        eprintln!("{pages} pages, {:?}: {:?}", captured.stopped.total(), captured.stopped.steps());
        captured
    }
}

fn output_of(replies: &mut Replies) -> Vec<u8> {
    let mut output = Vec::new();
    loop {
        match replies.next().unwrap() {
            Reply::Started { .. } | Reply::StdinTaken(_) | Reply::StdinClosed => {}
            Reply::Stdout(bytes) => output.extend(bytes),
            reply => {
                assert!(reply.is_final(), "{reply:?}");
                return output;
            }
        }
    }
}

fn pid_of(replies: &mut Replies) -> u32 {
    match replies.next().unwrap() {
        Reply::Started { pid } => pid,
        reply => panic!("{reply:?}"),
    }
}

#[test]
fn counting_command_loses_nothing_in_three_captures() {
    let live = Live::of(&busybox());
    let script = "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done";
    let mut replies = live.exec(&["sh", "-c", script], false);
    pid_of(&mut replies);
    let counting = thread::scope(|scope| {
        let counting = scope.spawn(|| output_of(&mut replies));
        for _ in 0..3 {
            live.capture();
            assert_eq!(live.sh("echo between"), "between\n");
        }
        counting.join().unwrap()
    });
    let expected: String = (0..3000).map(|number| format!("{number}\n")).collect();
    assert!(counting == expected.as_bytes(), "{} bytes", counting.len());
}

#[test]
fn bytes_in_flight_both_ways_survive_captures() {
    // As much as can be in flight.
    const PIECES: usize = STDIN_WINDOW / PIECE;
    let live = Live::of(&busybox());
    let mut replies = live.exec(&["cat"], true);
    pid_of(&mut replies);
    let piece: Vec<u8> = (0..PIECE as u32).map(|at: u32| at.to_le_bytes()[0]).collect();
    for round in 0..PIECES {
        // Nothing reads yet, so the input, the program and the output fill up.
        replies.send(&Input::Data(piece.clone())).unwrap();
        if round % 2 == 0 {
            live.capture();
        }
    }
    replies.send(&Input::DataEnd).unwrap();
    let output = output_of(&mut replies);
    assert!(output == piece.repeat(PIECES), "{} bytes", output.len());
}

#[test]
fn snapshot_of_a_running_machine_starts_without_its_streams() {
    let vm = machines::start(&busybox());
    assert_eq!(sh(&vm, "echo before > /tmp/mark; cat /tmp/mark"), "before\n");
    // One command writes to its stream, the other never does.
    let noisy = "echo $$ > /tmp/noisy; while :; do echo $((n=n+1)); sleep 0.01; done";
    let silent = "echo $$ > /tmp/silent; exec sleep 100000";
    thread::scope(|scope| {
        let limit = Duration::from_secs(60);
        for script in [noisy, silent] {
            let exec = vm.exec_builder().argv(["sh", "-c", script]).timeout(limit);
            scope.spawn(move || exec.output().unwrap());
        }
        sh(&vm, "while ! [ -s /tmp/noisy ] || ! [ -s /tmp/silent ]; do sleep 0.1; done");
        let taken = vm.snapshot("second").unwrap();
        eprintln!("stopped {:?} of {:?}", taken.stopped.total(), taken.took);
        sh(&vm, "echo after > /tmp/mark");

        let again = machines::start(&taken.image);
        assert_eq!(sh(&again, "cat /tmp/mark"), "before\n");
        let gone = "for f in noisy silent; do p=$(cat /tmp/$f); i=0;
            while [ -e /proc/$p ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i+1)); done
            [ -e /proc/$p ] && tr '\\0' ' ' < /proc/$p/cmdline; echo gone; done";
        assert_eq!(sh(&again, gone), "gone\ngone\n");
        // A snapshot of a snapshot, and another one of the first machine.
        sh(&again, "echo again > /tmp/mark");
        let third = machines::start(&again.snapshot("third").unwrap().image);
        assert_eq!(sh(&third, "cat /tmp/mark"), "again\n");
        vm.snapshot("fourth").unwrap();
        let store = machines::store();
        assert_eq!(
            sh(&machines::start(&store.image("fourth").unwrap()), "cat /tmp/mark"),
            "after\n"
        );
        for name in ["second", "third", "fourth"] {
            assert!(store.names().unwrap().contains(&name.to_owned()));
        }
        assert_eq!(sh(&vm, "kill $(cat /tmp/noisy) $(cat /tmp/silent); echo killed"), "killed\n");
    });
}

#[test]
fn snapshot_of_a_machine_that_started_on_demand_is_complete() {
    let image = busybox();
    let cache = tempfile::tempdir_in(machines::folder()).unwrap();
    let source = image.source().clone();
    let cold = Image::open(source, image.digest(), cache.path()).unwrap();
    let vm = machines::start(&cold);
    assert_eq!(vm.timings().restore_mode(), RestoreMode::OnDemand);
    sh(&vm, "echo here > /dev/shm/mark");
    let taken = vm.snapshot("on-demand").unwrap();
    assert_eq!(
        sh(&machines::start(&taken.image), "cat /dev/shm/mark; ls /bin/busybox"),
        "here\n/bin/busybox\n"
    );
    assert_eq!(sh(&vm, "cat /dev/shm/mark"), "here\n");
}

#[test]
fn snapshot_after_a_small_exec_adds_little() {
    let vm = machines::start(&busybox());
    sh(&vm, "echo small > /tmp/mark");
    let image = vm.snapshot("small").unwrap().image;
    let own = image.pack().unwrap().index.blobs.last().unwrap().size();
    eprintln!("{own} bytes");
    assert!(own <= 2 << 20, "{own}");
}

#[test]
fn snapshot_with_an_invalid_name_is_refused() {
    let vm = machines::start(&busybox());
    for name in ["", "../x", "a/b", ".hidden"] {
        assert!(
            matches!(
                vm.snapshot(name),
                Err(Error::Invalid { source: InvalidInput::SnapshotName { .. } })
            ),
            "{name}"
        );
    }
}

#[test]
fn capture_copies_16_mib_of_dirty_pages() {
    let live = Live::of(&busybox());
    live.sh("dd if=/dev/urandom of=/dev/shm/x bs=1M count=16 2>&1");
    for _ in 0..5 {
        let captured = live.capture();
        assert!(captured.dirty.count() >= (16 << 20) / PAGE, "{}", captured.dirty.count());
    }
    assert_eq!(live.sh("stat -c %s /dev/shm/x"), "16777216\n");
}
