//! Commands with streams: input, output, terminals, signals and chains.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, Read, Write};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use supermachine::error::{InvalidInput, TransferError};
use supermachine::{Error, ExecChild, Vm};
use supermachine_test_support::machines::{bake, baked, busybox, sh, start, succeeded};

fn vm() -> &'static Vm {
    static VM: OnceLock<Vm> = OnceLock::new();
    VM.get_or_init(|| start(&busybox()))
}

fn spawn(script: &str) -> ExecChild {
    vm().exec_builder().argv(["sh", "-c", script]).spawn().unwrap()
}

#[test]
fn cat_streams_until_its_input_is_closed() {
    let mut child = vm().exec_builder().argv(["cat"]).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin().unwrap(), child.stdout().unwrap());
    assert!(child.stdin().is_none());
    let mut echo = [0; 6];
    for line in ["first\n", "again\n"] {
        stdin.write_all(line.as_bytes()).unwrap();
        stdout.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, line.as_bytes());
    }
    assert!(child.try_wait().unwrap().is_none());
    drop(stdin);
    assert_eq!(stdout.read(&mut echo).unwrap(), 0);
    assert!(child.wait().unwrap().success());
    assert!(child.try_wait().unwrap().unwrap().success());
}

#[test]
fn input_of_any_size_reaches_the_command() {
    for size in [0, 5, 70_000, 5_000_000] {
        let input: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
        let outcome = vm().exec_builder().argv(["cat"]).stdin(input.clone()).output().unwrap();
        assert!(outcome.stdout == input, "{size} bytes");
    }
}

#[test]
fn program_that_reads_no_input_only_breaks_the_pipe() {
    let outcome = vm().exec_builder().argv(["true"]).stdin(vec![1; 3_000_000]).output().unwrap();
    assert!(outcome.success());
    let mut child = spawn("exec <&-; sleep 1; exit 7");
    let mut stdin = child.stdin().unwrap();
    let error = (0..1000).find_map(|_| stdin.write_all(&[0; 65536]).err()).unwrap();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(child.wait().unwrap().status.code(), Some(7));
}

#[test]
fn slow_reader_loses_nothing_and_blocks_the_command() {
    let mut child = spawn("head -c 8388608 /dev/zero; echo done >&2");
    // Time to write everything, if nothing held the command back.
    thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "the command did not block");
    let (mut stdout, mut all) = (child.stdout().unwrap(), 0);
    let mut piece = vec![0; 100_000];
    loop {
        let count = stdout.read(&mut piece).unwrap();
        if count == 0 {
            break;
        }
        all += count;
        // The reader is slow.
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(all, 8 << 20);
    assert_eq!(child.wait_with_output().unwrap().stderr, b"done\n");
}

#[test]
fn one_stream_is_read_while_the_other_is_not() {
    let mut child = spawn("head -c 2000000 /dev/zero >&2 & echo free; wait; echo end");
    let mut stdout = child.stdout().unwrap();
    let mut four = [0; 5];
    stdout.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"free\n");
    let mut errors = Vec::new();
    child.stderr().unwrap().read_to_end(&mut errors).unwrap();
    assert_eq!(errors.len(), 2_000_000);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "end\n");
}

#[test]
fn gibibyte_streams_through() {
    let mut child = vm()
        .exec_builder()
        .argv(["sh", "-c", "dd if=/dev/zero bs=1M count=1024 2>/dev/null"])
        .spawn()
        .unwrap();
    let mut stdout = child.stdout().unwrap();
    let count = io::copy(&mut stdout, &mut io::sink()).unwrap();
    assert_eq!(count, 1 << 30);
    assert!(child.wait().unwrap().success());
}

#[test]
fn output_beyond_its_limit_kills_the_command() {
    let builder = vm().exec_builder().argv(["yes"]).max_output(100_000);
    let result = builder.output();
    let Err(Error::Transfer { source: TransferError::OutputTooLarge { stream, limit } }) = result
    else {
        panic!("{result:?}")
    };
    assert_eq!((stream, limit), ("standard output", 100_000));
    let gone = "i=0; while pidof yes >/dev/null && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done; pidof yes || echo gone";
    assert_eq!(sh(vm(), gone), "gone\n");
}

#[test]
fn signals_kill_and_drop_reach_the_whole_group() {
    let mut child = spawn("trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done");
    let mut stdout = child.stdout().unwrap();
    stdout.read_exact(&mut [0; 6]).unwrap();
    let signaler = child.signaler();
    thread::spawn(move || signaler.signal(15).unwrap()).join().unwrap();
    assert_eq!(child.wait().unwrap().status.code(), Some(5));
    child.signal(15).unwrap();
    let mut stubborn = spawn("trap '' TERM; echo deaf; sleep 1007 & sleep 1008");
    stubborn.stdout().unwrap().read_exact(&mut [0; 5]).unwrap();
    stubborn.signal(15).unwrap();
    // Time to exit, if it did not ignore the signal.
    thread::sleep(Duration::from_millis(300));
    assert!(stubborn.try_wait().unwrap().is_none());
    stubborn.kill().unwrap();
    assert_eq!(stubborn.wait().unwrap().status.signal(), Some(9));
    drop(spawn("sleep 1008 & sleep 1007"));
    let gone = "i=0; while ps | grep -q 'sleep 100[78]$' && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done; ps | grep -c 'sleep 100[78]$' || true";
    assert_eq!(sh(vm(), gone), "0\n");
}

#[test]
fn grandchild_that_holds_the_pipes_does_not_delay_the_result() {
    let begin = Instant::now();
    let outcome = spawn("sleep 1009 & echo left").wait_with_output().unwrap();
    assert_eq!(outcome.stdout, b"left\n");
    assert!(begin.elapsed() < Duration::from_secs(20));
    sh(vm(), "pkill -f 'sleep 1009' || true");
}

#[test]
fn chain_and_staged_files_take_one_round_trip() {
    let outcome = vm()
        .exec_builder()
        .stage_file("/tmp/job/../step.sh", 0o700, "echo $(id -un) $1; exit $2")
        .argv(["sh", "/tmp/step.sh", "one", "0"])
        .chain(["sh", "/tmp/step.sh", "two", "4"])
        .chain(["echo", "never"])
        .user("app")
        .output();
    // The path leads through a directory that does not exist.
    assert!(
        matches!(outcome, Err(Error::Agent { failure }) if failure.operation.as_str() == "open")
    );
    let outcome = vm()
        .exec_builder()
        .stage_file("/tmp/step.sh", 0o700, "echo $(id -un) $1; exit $2")
        .argv(["/bin/sh", "/tmp/step.sh", "one", "0"])
        .chain(["/bin/sh", "/tmp/step.sh", "two", "4"])
        .chain(["echo", "never"])
        .user("app")
        .output()
        .unwrap();
    assert_eq!((&outcome.stdout[..], outcome.status.code()), (&b"app one\napp two\n"[..], Some(4)));
    assert!(matches!(
        vm().exec_builder().argv(["true"]).chain([""; 0]).output(),
        Err(Error::Invalid { source: InvalidInput::EmptyCommand })
    ));
}

#[test]
fn command_on_a_terminal_has_its_size_and_type() {
    let script = "trap 'stty size' WINCH; tty; stty size; echo $TERM; cat; echo end";
    let builder = vm().exec_builder().argv(["sh", "-c", script]).tty(true).winsize(30, 90);
    let mut child = builder.spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin().unwrap(), child.stdout().unwrap());
    let mut seen = String::new();
    let mut until = |wanted: &str| {
        let mut piece = [0; 512];
        while !seen.contains(wanted) {
            let count = stdout.read(&mut piece).unwrap();
            assert!(count > 0, "{seen:?} ends without {wanted:?}");
            seen.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        std::mem::take(&mut seen)
    };
    let begin = until("xterm\r\n");
    assert!(begin.starts_with("/dev/pts/") && begin.contains("\r\n30 90\r\n"), "{begin:?}");
    stdin.write_all(b"typed\r").unwrap();
    until("typed\r\ntyped\r\n");
    child.resize(5, 6).unwrap();
    stdin.write_all(&[3]).unwrap();
    assert_eq!(child.wait().unwrap().status.signal(), Some(2));
    let ended = vm().exec_builder().argv(["cat"]).tty(true).stdin("x\n").output().unwrap();
    assert!(ended.success());
}

#[test]
fn hundred_children_run_at_once_and_exit_in_any_order() {
    let mut children: Vec<ExecChild> =
        (0..100).map(|n| spawn(&format!("read line; echo $line {n}"))).collect();
    for n in (0..100).rev().step_by(3) {
        drop(children.remove(n));
    }
    let count = children.len();
    for child in &mut children {
        child.stdin().unwrap().write_all(b"go\n").unwrap();
    }
    let outputs: std::collections::BTreeSet<Vec<u8>> =
        children.into_iter().map(|child| child.wait_with_output().unwrap().stdout).collect();
    assert_eq!(outputs.len(), count);
    assert!(outputs.iter().all(|output| output.starts_with(b"go ")));
}

#[test]
fn fork_bomb_is_killed_by_its_timeout() {
    let vm = start(&busybox());
    let builder = vm.exec_builder().argv(["sh", "-c", "f() { f | f & }; f; sleep 1000"]);
    let begin = Instant::now();
    let outcome = builder.timeout(Duration::from_secs(2)).output();
    assert!(begin.elapsed() < Duration::from_secs(120), "{:?}", begin.elapsed());
    match outcome {
        // It may stop by itself when the guest runs out of memory.
        Ok(outcome) => {
            assert!(outcome.timed_out || !outcome.success(), "{outcome:?}");
            assert_eq!(sh(&vm, "echo usable"), "usable\n");
        }
        Err(error) => {
            assert!(matches!(error, Error::Unanswered { .. } | Error::Guest { .. }), "{error:?}")
        }
    }
}

#[test]
fn guest_panic_fails_every_pending_call_at_once() {
    let vm = start(&busybox());
    let mut child = vm.exec_builder().argv(["cat"]).spawn().unwrap();
    let mut stdout = child.stdout().unwrap();
    let reader = thread::spawn(move || stdout.read(&mut [0]));
    let mut file = vm.file_writer("/tmp/x").unwrap();
    file.write_all(b"x").unwrap();
    thread::scope(|scope| {
        let entrypoint = scope.spawn(|| vm.wait());
        let panic = "echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero";
        let result = vm.exec(["sh", "-c", panic]);
        let Err(Error::Guest { .. }) = &result else { panic!("{result:?}") };
        let begin = Instant::now();
        let error = reader.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("guest"), "{error}");
        assert!(matches!(child.wait(), Err(Error::Guest { .. })));
        assert!(matches!(entrypoint.join().unwrap(), Err(Error::Guest { .. })));
        assert!(matches!(file.finish(), Err(Error::Guest { .. })));
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    });
    assert!(matches!(vm.stop(), Err(Error::Guest { .. })));
}

#[test]
fn dropped_machine_closes_its_streams() {
    let vm = start(&busybox());
    let mut child = vm.exec_builder().argv(["cat"]).spawn().unwrap();
    let mut reader = vm.file_reader("/bin/busybox").unwrap();
    reader.read_exact(&mut [0; 100]).unwrap();
    drop(vm);
    assert!(matches!(child.wait(), Err(Error::Stopped)));
    let mut rest = Vec::new();
    assert!(reader.read_to_end(&mut rest).is_err());
    child.signal(15).unwrap();
}

#[test]
fn workload_receives_signals_and_is_waited_for() {
    let script = "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done";
    let image = baked("trap", || bake("busybox").entrypoint(["sh", "-c", script]));
    let vm = start(&image);
    assert!(matches!(
        vm.workload_signal(0),
        Err(Error::Invalid { source: InvalidInput::Signal { number: 0 } })
    ));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| vm.wait().unwrap());
        vm.workload_signal(15).unwrap();
        assert_eq!(waiter.join().unwrap().code(), Some(9));
    });
    assert_eq!(vm.wait().unwrap().code(), Some(9));
    assert!(matches!(vm.workload_signal(15), Err(Error::Agent { failure }) if failure.errno == 3));
}

#[test]
fn stats_report_memory_and_processor_time() {
    let vm = start(&busybox());
    let before = vm.stats().unwrap();
    assert!((64 << 10..128 << 10).contains(&before.memory_total_kib), "{before:?}");
    let used = "dd if=/dev/zero of=/dev/shm/x bs=1M count=20 2>/dev/null";
    succeeded(&vm.exec(["sh", "-c", used]).unwrap(), used);
    let after = vm.stats().unwrap();
    assert!(after.memory_used_kib >= before.memory_used_kib + (15 << 10), "{before:?} {after:?}");
    assert!(after.cpu_time > before.cpu_time && after.exits > before.exits);
}
