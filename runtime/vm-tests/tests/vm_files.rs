//! Files of a machine: writing, reading, copying, and their errors.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use supermachine::error::InvalidInput;
use supermachine::{Error, Vm};
use supermachine_test_support::machines::{busybox, folder, sh, start};

const ENOENT: u16 = 2;
const ENOSPC: u16 = 28;

fn vm() -> &'static Vm {
    static VM: OnceLock<Vm> = OnceLock::new();
    VM.get_or_init(|| start(&busybox()))
}

/// The failed operation, its subject, and the error number.
fn failure<T: Debug>(result: Result<T, Error>) -> (String, String, u16) {
    match result {
        Err(Error::Agent { failure }) => {
            (failure.operation.to_string(), failure.subject, failure.errno)
        }
        other => panic!("not a failure of the agent: {other:?}"),
    }
}

#[test]
fn written_file_can_be_run_with_a_timeout() {
    let vm = vm();
    vm.write_file("/tmp/main.sh", b"echo started; exit 3").unwrap();
    let outcome = vm
        .exec_builder()
        .argv(["sh", "/tmp/main.sh"])
        .timeout(Duration::from_secs(30))
        .output()
        .unwrap();
    assert_eq!((&outcome.stdout[..], outcome.status.code()), (&b"started\n"[..], Some(3)));
}

#[test]
fn file_reads_back_as_written() {
    for size in [0_usize, 1, 65_536, 262_144, 262_145, 5_000_000] {
        let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        vm().write_file("/tmp/back", &content).unwrap();
        assert!(vm().read_file("/tmp/back").unwrap() == content, "{size} bytes");
    }
    assert_eq!(sh(vm(), "stat -c '%a %u %g' /tmp/back"), "644 0 0\n");
    assert_eq!(vm().read_file("/proc/sys/kernel/ostype").unwrap(), b"Linux\n");
}

#[test]
fn mode_owner_and_append_are_applied() {
    let file = |name| vm().file(name);
    file("/tmp/log").mode(0o640).owner("app").write("one\n").unwrap();
    file("/tmp/log").append(true).write("two\n").unwrap();
    assert_eq!(sh(vm(), "cat /tmp/log; stat -c '%a %U:%G' /tmp/log"), "one\ntwo\n640 app:app\n");
    file("/tmp/log").mode(0o4755).owner("0:50").write("").unwrap();
    assert_eq!(sh(vm(), "stat -c '%a %u:%g %s' /tmp/log"), "4755 0:50 0\n");
    assert!(matches!(
        file("/tmp/x").mode(0o10000).write(""),
        Err(Error::Invalid { source: InvalidInput::Mode { .. } })
    ));
    let (operation, subject, errno) = failure(file("/tmp/x").owner("stranger").write(""));
    assert_eq!((&operation[..], &subject[..], errno), ("find user", "stranger", ENOENT));
}

#[test]
fn errors_name_path_and_error_number() {
    let missing = |result| failure::<()>(result);
    assert_eq!(missing(vm().write_file("/none/x", "")), ("open".into(), "/none/x".into(), ENOENT));
    let read = failure(vm().read_file("/none"));
    assert_eq!(read, ("open".into(), "/none".into(), ENOENT));
    assert_eq!(failure(vm().read_file("/dev/zero")).2, 95);
    assert_eq!(failure(vm().read_file("/etc")).2, 21);
    for path in ["tmp/x", "", "/tmp/a\0b"] {
        let refused = vm().write_file(path, "");
        assert!(
            matches!(refused, Err(Error::Invalid { source: InvalidInput::Path { .. } })),
            "{path:?}: {refused:?}"
        );
    }
    let mut reader = vm().file_reader("/none").unwrap();
    let error = reader.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("/none"), "{error}");
}

#[test]
fn full_file_system_is_reported_and_the_machine_stays_usable() {
    let vm = start(&busybox());
    sh(&vm, "mkdir /small; mount -t tmpfs -o size=1m tmpfs /small");
    let (operation, subject, errno) = failure(vm.write_file("/small/x", vec![1; 20 << 20]));
    assert_eq!((&operation[..], &subject[..], errno), ("write", "/small/x", ENOSPC));
    let mut writer = vm.file_writer("/small/x").unwrap();
    let error = (0..1000).find_map(|_| writer.write_all(&[1; 65536]).err()).unwrap();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("/small/x"), "{error}");
    assert_eq!(sh(&vm, "echo usable"), "usable\n");
}

#[test]
fn large_file_streams_both_ways() {
    let vm = start(&busybox());
    let piece: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 253) as u8).collect();
    let mut writer = vm.file_writer("/tmp/large").unwrap();
    for _ in 0..40 {
        writer.write_all(&piece).unwrap();
    }
    writer.finish().unwrap();
    let mut reader = vm.file_reader("/tmp/large").unwrap();
    let mut again = vec![0; piece.len()];
    for _ in 0..40 {
        reader.read_exact(&mut again).unwrap();
        assert!(again == piece);
    }
    assert_eq!(reader.read(&mut again).unwrap(), 0);
}

#[test]
fn dropped_writer_leaves_what_it_wrote() {
    let mut writer = vm().file_writer("/tmp/half").unwrap();
    writer.write_all(b"half").unwrap();
    drop(writer);
    let seen = sh(
        vm(),
        "i=0; while [ ! -s /tmp/half ] && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done; cat /tmp/half",
    );
    assert_eq!(seen, "half");
}

/// Needs the package `tar`.
#[test]
fn directories_are_copied_in_and_out_as_tar_archives() {
    let dir = tempfile::tempdir_in(folder()).unwrap();
    let tree = dir.path().join("tree");
    let script = "mkdir -p tree/a/b; echo hello > tree/a/file; head -c 300000 /dev/urandom > tree/a/b/big
        ln -s file tree/a/link; ln tree/a/file tree/hard; chmod 4711 tree/a/file; touch -d @77 tree/a/b";
    let run = |script: &str| {
        let status = Command::new("sh").args(["-ec", script]).current_dir(dir.path()).status();
        assert!(status.unwrap().success(), "{script}");
    };
    run(script);
    let mut tar = Command::new("tar")
        .args(["--format=pax", "-cC"])
        .arg(&tree)
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    vm().copy_in("/srv/new/tree", tar.stdout.take().unwrap()).unwrap();
    assert!(tar.wait().unwrap().success());
    let seen = sh(
        vm(),
        "cd /srv/new/tree; cat a/link; stat -c '%a %h' a/file; stat -c %Y a/b; wc -c < a/b/big; [ a/file -ef hard ] && echo same",
    );
    assert_eq!(seen, "hello\n4711 2\n77\n300000\nsame\n");
    let mut archive = Vec::new();
    vm().copy_out("/srv/new/tree", &mut archive).unwrap();
    std::fs::write(dir.path().join("out.tar"), &archive).unwrap();
    run(
        "mkdir out; tar -xpf out.tar -C out; diff -r --no-dereference tree out; [ out/a/file -ef out/hard ]",
    );
    let (operation, subject, errno) = failure(vm().copy_out("/none", io::sink()));
    assert_eq!((&operation[..], &subject[..], errno), ("stat", "/none", ENOENT));
    assert_eq!(failure(vm().copy_in("/tmp/t", &[1_u8; 600][..])).2, 74);
    assert_eq!(failure(vm().copy_in("/etc/passwd", &[][..])).2, 20);
}
