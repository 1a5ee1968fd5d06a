//! Machines that are captured while they run: they go on as if nothing had happened, and
//! another goes on from what was captured.

#![expect(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and tells how long a guest was stopped"
)]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use supermachine::agent::{Replies, next_event, resume};
use supermachine::machine::{Captured, Machine, Restore};
use supermachine::{Image, Timings};
use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::wire::{Command, Control, Event, Input, Reply, Request};
use support::busybox;

/// Longer than any answer takes, on the slowest of hosts.
const PATIENCE: Duration = Duration::from_secs(120);
const PAGE: u64 = 4096;

/// A running machine, with its control stream.
struct Live {
    machine: Machine,
    control: UnixStream,
}

impl Live {
    fn of(image: &Image) -> Self {
        Self::from(image, image.snapshot().clone(), Arc::clone(image.memory()))
    }

    fn from(image: &Image, snapshot: Snapshot, memory: Arc<File>) -> Self {
        let parts = Restore { snapshot, memory, disks: image.disks().to_vec() };
        let machine = Machine::restore(parts, &mut Timings::start()).unwrap();
        let control = machine.control().unwrap();
        machine.send_control(&Control::Resume(resume(None).unwrap())).unwrap();
        machine.run();
        let mut live = Self { machine, control };
        assert_eq!(live.event(), Event::Resumed);
        live
    }

    /// What goes on from a captured machine.
    fn again(image: &Image, captured: &Captured) -> Self {
        let memory = tempfile::tempfile_in(support::folder()).unwrap();
        let size = captured.snapshot.machine.memory_size;
        memory.set_len(size).unwrap();
        let mut piece = vec![0; 1 << 20];
        for at in (0..size).step_by(piece.len()) {
            image.memory().read_exact_at(&mut piece, at).unwrap();
            if piece.iter().any(|byte| *byte != 0) {
                memory.write_all_at(&piece, at).unwrap();
            }
        }
        for (page, content) in captured.dirty.iter() {
            memory.write_all_at(content, page * PAGE).unwrap();
        }
        Self::from(image, captured.snapshot.clone(), Arc::new(memory))
    }

    fn event(&mut self) -> Event {
        next_event(&self.machine, &mut self.control, Some(PATIENCE)).unwrap()
    }

    fn exec(&self, argv: &[&str], stdin: bool) -> Replies<'_> {
        let argv = argv.iter().map(|text| text.as_bytes().to_vec()).collect();
        let command = Command { argv, stdin, ..Command::default() };
        let mut replies = Replies::open(&self.machine, &Request::Exec(command)).unwrap();
        replies.set_limit(Some(PATIENCE)).unwrap();
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

fn output_of(replies: &mut Replies<'_>) -> Vec<u8> {
    let mut output = Vec::new();
    loop {
        match replies.next().unwrap() {
            Reply::Started { .. } => {}
            Reply::Stdout(bytes) => output.extend(bytes),
            reply => {
                assert!(reply.is_final(), "{reply:?}");
                return output;
            }
        }
    }
}

fn pid_of(replies: &mut Replies<'_>) -> u32 {
    match replies.next().unwrap() {
        Reply::Started { pid } => pid,
        reply => panic!("{reply:?}"),
    }
}

#[test]
fn exec_that_counts_loses_nothing_through_three_captures() {
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
fn bytes_on_their_way_in_both_directions_survive_captures() {
    const PIECES: usize = 24;
    let live = Live::of(&busybox());
    let mut replies = live.exec(&["cat"], true);
    pid_of(&mut replies);
    let piece: Vec<u8> = (0..32 << 10).map(|at: u32| at.to_le_bytes()[0]).collect();
    for round in 0..PIECES {
        // Nobody reads yet: input, the program and output fill up.
        replies.send(&Input::Stdin(piece.clone())).unwrap();
        if round % 6 == 0 {
            live.capture();
        }
    }
    replies.send(&Input::StdinEnd).unwrap();
    let output = output_of(&mut replies);
    assert!(output == piece.repeat(PIECES), "{} bytes", output.len());
}

#[test]
fn captured_machine_goes_on_elsewhere_without_the_streams_of_the_first() {
    let image = busybox();
    let live = Live::of(&image);
    assert_eq!(live.sh("echo before > /tmp/mark; cat /tmp/mark"), "before\n");
    // One that writes to its stream, and one that never does.
    let noisy = "while :; do echo $((n=n+1)); sleep 0.01; done";
    let mut noisy = live.exec(&["sh", "-c", noisy], false);
    let mut silent = live.exec(&["sleep", "100000"], false);
    let pids = [pid_of(&mut noisy), pid_of(&mut silent)];
    noisy.next().unwrap();
    let captured = live.capture();
    live.sh("echo after > /tmp/mark");

    let again = Live::again(&image, &captured);
    assert_eq!(again.sh("cat /tmp/mark"), "before\n");
    for pid in pids {
        let gone = format!(
            "i=0; while [ -e /proc/{pid} ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i+1)); done
            [ -e /proc/{pid} ] && tr '\\0' ' ' < /proc/{pid}/cmdline; echo gone"
        );
        assert_eq!(again.sh(&gone), "gone\n");
    }
    // A snapshot of a snapshot, of a machine that was captured before.
    let third = Live::again(&image, &live.capture());
    assert_eq!(third.sh("cat /tmp/mark"), "after\n");
    for pid in pids {
        assert_eq!(live.sh(&format!("kill -0 {pid} && echo alive")), "alive\n");
    }
    noisy.next().unwrap();
}

#[test]
fn guest_with_16_mib_dirty_is_stopped_for_them_alone() {
    let live = Live::of(&busybox());
    live.sh("dd if=/dev/urandom of=/dev/shm/x bs=1M count=16 2>&1");
    for _ in 0..5 {
        let captured = live.capture();
        assert!(captured.dirty.count() >= (16 << 20) / PAGE, "{}", captured.dirty.count());
        let difference = live.machine.difference(&captured.dirty).unwrap();
        let changed: u64 = difference.changed.iter().map(|run| u64::from(run.count)).sum();
        assert!(changed >= (16 << 20) / PAGE, "{changed}");
    }
    assert_eq!(live.sh("stat -c %s /dev/shm/x"), "16777216\n");
}
