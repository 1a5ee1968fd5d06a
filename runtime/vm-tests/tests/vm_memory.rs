//! Files of the image, mapped, locked and watched by programs: they behave as on any other file system.
//!
//! The programs are Python scripts that do what debuggers, databases and `tail -F` do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use supermachine::Vm;
use supermachine_test_support::machines::{self, bake, baked, sh, start, succeeded};

const BREAKPOINT: &[u8] = include_bytes!("programs/breakpoint.py");
const MEMORY: &[u8] = include_bytes!("programs/memory.py");
const DATABASE: &[u8] = include_bytes!("programs/database.py");
const WATCHING: &[u8] = include_bytes!("programs/watching.py");

/// The expected result of each use of a file's pages.
const CASES: [&str; 18] = [
    "ptrace: 0, as expected",
    "/proc/PID/mem: 1, as expected",
    "/proc/PID/mem, writable: 1, as expected",
    "private, read: as expected",
    "private, written: as expected",
    "fork, child: as expected, as expected",
    "fork, parent: as expected",
    "mlock: 0",
    "mlock, content: as expected",
    "madvise: 0",
    "madvise, content: as expected",
    "mlock, untouched: 0",
    "O_DIRECT: 16384, as expected",
    "file, unchanged: as expected",
    "inotify: 0x2",
    "shared, read: as expected",
    "shared, written: as expected",
    "shared, file written: as expected",
];

fn python() -> Vm {
    start(&baked("python3", || bake("python3").entrypoint(["sleep", "1000000"])))
}

fn run(vm: &Vm, program: &[u8], file: &str) -> String {
    run_with(vm, program, &[file])
}

fn run_with(vm: &Vm, program: &[u8], arguments: &[&str]) -> String {
    let argv = ["python3", "/tmp/program.py"].iter().chain(arguments);
    let builder = vm.exec_builder().argv(argv.copied());
    let outcome = builder.stage_file("/tmp/program.py", 0o644, program).output().unwrap();
    succeeded(&outcome, &arguments.join(" "))
}

/// Mounts a tmpfs at `/mnt`. No program can be mapped from `/dev/shm`, as in a container.
fn mount_tmpfs(vm: &Vm) {
    let mount = r#"python3 -c 'import ctypes
assert ctypes.CDLL(None).mount(b"none", b"/mnt", b"tmpfs", 0, None) == 0'"#;
    sh(vm, mount);
}

/// A machine whose image has a database that was not closed, and files to watch, in `/opt/data`.
fn with_data() -> Vm {
    // Before the bake, as bakes run one at a time.
    let vm = python();
    start(&baked("python3-data", || {
        let made = run_with(&vm, DATABASE, &["make", "/tmp/data"]);
        assert_eq!(made, "files: ['db', 'db-shm', 'db-wal']\n");
        let dir = tempfile::tempdir_in(machines::folder()).unwrap().keep();
        for name in ["db", "db-shm", "db-wal"] {
            fs::write(dir.join(name), vm.read_file(format!("/tmp/data/{name}")).unwrap()).unwrap();
        }
        for name in ["watched", "gone", "log", "log.0"] {
            fs::write(dir.join(name), "one\ntwo\nthree\n").unwrap();
        }
        bake("python3").entrypoint(["sleep", "1000000"]).file("/opt/data", dir)
    }))
}

#[test]
fn breakpoint_in_a_program_of_the_image_changes_one_byte() {
    let vm = python();
    // The copy is in the writable layer, which is in memory.
    sh(&vm, "cp /bin/true /tmp/true");
    for program in ["/bin/true", "/tmp/true"] {
        assert_eq!(
            run(&vm, BREAKPOINT, program),
            "read before: True\ndamaged bytes: 0\nstopped by signal 5\n",
            "{program}"
        );
    }
}

#[test]
fn file_of_the_image_in_memory_behaves_as_one_on_tmpfs() {
    let vm = python();
    mount_tmpfs(&vm);
    sh(&vm, "cp /usr/bin/bash /mnt/bash");
    let on_image = run(&vm, MEMORY, "/usr/bin/bash");
    assert_eq!(on_image, run(&vm, MEMORY, "/mnt/bash"));
    let cases: Vec<&str> =
        on_image.lines().filter(|line| !line.starts_with("process_vm")).collect();
    assert_eq!(cases, CASES);
}

#[test]
fn database_of_the_image_is_shared_by_processes_as_one_on_tmpfs() {
    let vm = with_data();
    mount_tmpfs(&vm);
    sh(&vm, "cp -a /opt/data /mnt/data");
    let on_image = run_with(&vm, DATABASE, &["use", "/opt/data"]);
    for line in [
        "recovered: 500 rows, 150000",
        "rows seen by the other: 1000 rows, 300000",
        "rows of the other: 1500 rows, 450000",
        "other transaction: database is locked",
        "other reads on: 1400",
        "checkpoint: 0",
        "integrity: ok, ok",
        "again: 1300 rows, 390000",
    ] {
        assert!(on_image.lines().any(|found| found == line), "{line}: {on_image}");
    }
    assert_eq!(on_image, run_with(&vm, DATABASE, &["use", "/mnt/data"]));
}

#[test]
fn changes_of_the_images_files_are_watched_as_on_tmpfs() {
    let vm = with_data();
    mount_tmpfs(&vm);
    sh(&vm, "cp -a /opt/data /mnt/data");
    let on_image = run(&vm, WATCHING, "/opt/data");
    for line in [
        "mode: the folder attrib watched, watched attrib",
        "tail, appended: appended 2",
        "tail, rotated: rotated",
        "tail, cut off: cut",
        "open before: one two three more ",
        "same number: True",
    ] {
        assert!(on_image.lines().any(|found| found == line), "{line}: {on_image}");
    }
    assert_eq!(on_image, run(&vm, WATCHING, "/mnt/data"));
}
