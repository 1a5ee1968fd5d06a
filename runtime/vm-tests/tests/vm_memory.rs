//! Files of the image, mapped by programs: they behave as on any other file system.
//!
//! The programs are Python scripts that do what debuggers and databases do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use supermachine::Vm;
use supermachine_test_support::machines::{bake, baked, sh, start, succeeded};

const BREAKPOINT: &[u8] = include_bytes!("programs/breakpoint.py");
const MEMORY: &[u8] = include_bytes!("programs/memory.py");

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
    let builder = vm.exec_builder().argv(["python3", "/tmp/program.py", file]);
    let outcome = builder.stage_file("/tmp/program.py", 0o644, program).output().unwrap();
    succeeded(&outcome, file)
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
    // No program can be mapped from /dev/shm, as in a container.
    let mount = r#"python3 -c 'import ctypes
assert ctypes.CDLL(None).mount(b"none", b"/mnt", b"tmpfs", 0, None) == 0'"#;
    sh(&vm, &format!("{mount} && cp /usr/bin/perl /mnt/perl"));
    let on_image = run(&vm, MEMORY, "/usr/bin/perl");
    assert_eq!(on_image, run(&vm, MEMORY, "/mnt/perl"));
    let cases: Vec<&str> =
        on_image.lines().filter(|line| !line.starts_with("process_vm")).collect();
    assert_eq!(cases, CASES);
}
