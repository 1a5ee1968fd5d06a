//! A guest's file systems under the field's own tests: pjdfstest for the rules of POSIX, and fsx for
//! random operations on one file.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use supermachine::{HostFolder, Vm, VmConfig};
use supermachine_test_support::machines::{busybox, folder, sh};

/// The folder of the built tests, which `cargo xtask test` names.
const TOOLS: &str = "SUPERMACHINE_TEST_FILE_SYSTEMS";
/// Fewer tests of pjdfstest than ever pass on a file system of Linux.
const MOST_TESTS: usize = 250;
/// How long fsx runs, in seconds.
const FSX_SECONDS: u32 = 600;
/// The status of a command that `timeout` ended.
const TIMED_OUT: i32 = 143;
/// Tests that give a file to another user: a share's files have one owner.
const NEED_OWNERS: [&str; 8] = [
    "chmod::clear_isgid_bit",
    "link::share_metadata::fifo",
    "link::share_metadata::regular",
    "link::share_metadata::socket",
    "mkdir::uid_gid_eq_euid_egid",
    "mkfifo::uid_gid_eq_euid_egid",
    "mknod::uid_gid_eq_euid_egid",
    "open::uid_gid_eq_euid_egid",
];

/// A configuration with the tests in `/tools`.
fn config() -> VmConfig {
    let unset = || format!("{TOOLS} is not set: these tests run under `cargo xtask test`");
    let tools = std::env::var_os(TOOLS).ok_or_else(unset).unwrap();
    VmConfig::new().with_share(HostFolder::new(tools, "/tools").read_only())
}

fn with_share(home: &Path) -> Vm {
    let config = config().with_share(HostFolder::new(home, "/project"));
    busybox().start(&config).unwrap()
}

/// Runs pjdfstest in a folder, and returns the names of the tests that fail.
fn pjdfstest(vm: &Vm, path: &str) -> BTreeSet<String> {
    let config = "[features]\nposix_fallocate = {}\nutimensat = {}\nutime_now = {}\n\
         [settings]\nnaptime = 0.01\nallow_remount = false\n\
         [dummy_auth]\nentries = [[\"one\", \"one\"], [\"two\", \"two\"]]\n";
    vm.write_file("/pjdfstest.toml", config).unwrap();
    for (name, id) in [("one", 2001), ("two", 2002)] {
        let user = format!("{name}:x:{id}:{id}::/:/bin/sh");
        sh(vm, &format!("grep -q ^{name}: /etc/passwd || echo {user} >> /etc/passwd"));
        sh(vm, &format!("grep -q ^{name}: /etc/group || echo {name}:x:{id}: >> /etc/group"));
    }
    let command = ["/tools/pjdfstest", "-c", "/pjdfstest.toml", "-p", path];
    let text = String::from_utf8(vm.exec(command).unwrap().stdout).unwrap();
    let named = |end: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_suffix(end));
        lines.map(|name| name.trim_end().to_owned()).collect()
    };
    let passed = named(" ok").len();
    assert!(passed >= MOST_TESTS, "{passed} tests passed on {path}: {text}");
    named(" FAILED")
}

/// Runs fsx in a folder. It ends early only if it reads what it did not write.
fn fsx(vm: &Vm, path: &str) {
    let script = format!("cd {path} && timeout {FSX_SECONDS} /tools/fsx -q -S 7 file");
    let outcome = vm.exec(["sh", "-c", &script]).unwrap();
    let text = String::from_utf8_lossy(&outcome.stdout);
    assert_eq!(outcome.status.code(), Some(TIMED_OUT), "{text}");
}

#[test]
fn share_keeps_the_rules_of_posix_but_for_owners_and_devices() {
    let home = tempfile::tempdir_in(folder()).unwrap();
    let failed = pjdfstest(&with_share(home.path()), "/project");
    let is_device = |name: &String| name.ends_with("::block") || name.ends_with("::char");
    let others: BTreeSet<&str> =
        failed.iter().filter(|name| !is_device(name)).map(String::as_str).collect();
    assert_eq!(others, BTreeSet::from(NEED_OWNERS));
}

#[test]
fn root_keeps_the_rules_of_posix_as_memory_does() {
    let vm = busybox().start(&config()).unwrap();
    sh(&vm, "mkdir /tests /dev/shm/tests");
    assert_eq!(pjdfstest(&vm, "/tests"), pjdfstest(&vm, "/dev/shm/tests"));
}

#[test]
fn share_holds_what_random_operations_wrote() {
    let home = tempfile::tempdir_in(folder()).unwrap();
    fsx(&with_share(home.path()), "/project");
}

#[test]
fn root_holds_what_random_operations_wrote() {
    let vm = busybox().start(&config()).unwrap();
    fsx(&vm, "/root");
}
