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
/// What the shell prints of a command that `timeout` ended.
const TIMED_OUT: &str = "ended with 143";
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

fn with_disk() -> Vm {
    busybox().start(&config().with_disk("/disk", 256 << 20)).unwrap()
}

/// Runs pjdfstest in a folder, and returns the names of the tests that fail.
fn pjdfstest(vm: &Vm, path: &str) -> BTreeSet<String> {
    let config = "[features]\nposix_fallocate = {}\nutimensat = {}\nutime_now = {}\n\
         [settings]\nnaptime = 0.05\nallow_remount = false\n\
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
    let run = format!("timeout {FSX_SECONDS} /tools/fsx -q -S 7 file");
    let text = sh(vm, &format!("cd {path}; {run} 2>&1; echo ended with $?"));
    assert_eq!(text.lines().last(), Some(TIMED_OUT), "{text}");
}

/// The names without those of some kinds of files.
fn except(failed: &BTreeSet<String>, kinds: &[&str]) -> BTreeSet<String> {
    let is_other = |name: &&String| !kinds.iter().any(|kind| name.ends_with(kind));
    failed.iter().filter(is_other).cloned().collect()
}

#[test]
fn share_keeps_the_rules_of_posix_but_for_owners_and_devices() {
    let home = tempfile::tempdir_in(folder()).unwrap();
    let failed = pjdfstest(&with_share(home.path()), "/project");
    let need_owners = NEED_OWNERS.map(str::to_owned);
    assert_eq!(except(&failed, &["::block", "::char"]), BTreeSet::from(need_owners));
}

#[test]
fn root_and_memory_keep_the_rules_of_posix() {
    let vm = busybox().start(&config()).unwrap();
    sh(&vm, "mkdir /tests /dev/shm/tests");
    // The tests make the character device 0:0, with which an overlay marks removed files.
    assert_eq!(except(&pjdfstest(&vm, "/tests"), &["::char"]), BTreeSet::new());
    assert_eq!(pjdfstest(&vm, "/dev/shm/tests"), BTreeSet::new());
}

#[test]
fn disk_keeps_the_rules_of_posix() {
    assert_eq!(pjdfstest(&with_disk(), "/disk"), BTreeSet::new());
}

#[test]
fn disk_holds_what_random_operations_wrote() {
    fsx(&with_disk(), "/disk");
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
