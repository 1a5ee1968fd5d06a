//! Images whose entrypoint is PID 1: namespaces, commands beside it, orphans, signals, and its end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use supermachine::{Image, Vm, VmConfig};
use supermachine_baker::{Init, Ready};
use supermachine_test_support::machines::{bake, baked, sh, start, succeeded};

/// Says what it sees of itself, and waits for children and signals. The shell reaps orphans, too.
const ENTRYPOINT: &str = "echo pid $$ in $(cat /proc/self/cgroup), container=$container; \
    trap 'echo asked; exit 7' TERM; while :; do sleep 0.2 & wait; done";

fn image() -> Image {
    let describe = || bake("busybox").init(Init::Image).entrypoint(["sh", "-c", ENTRYPOINT]);
    baked("init", describe)
}

fn logs(vm: &Vm) -> String {
    let mut stdout = Vec::new();
    vm.logs_to(&mut stdout, &mut Vec::new()).unwrap();
    String::from_utf8(stdout).unwrap()
}

fn eventually(what: &str, is_true: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_true() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}");
    }
}

#[test]
fn entrypoint_is_pid_1_of_its_own_namespaces() {
    let vm = start(&image());
    assert_eq!(logs(&vm), "pid 1 in 0::/, container=supermachine\n");
    // Its control group, the root of those that it sees, has the controllers of a container.
    let script = "grep -x 1 /sys/fs/cgroup/cgroup.procs; cat /sys/fs/cgroup/cgroup.controllers";
    let groups = sh(&vm, script);
    let (first, controllers) = groups.split_once('\n').unwrap();
    assert_eq!(first, "1");
    for controller in ["cpu", "io", "memory", "pids"] {
        assert!(controllers.split_whitespace().any(|name| name == controller), "{controllers}");
    }
}

#[test]
fn commands_run_beside_the_entrypoint() {
    let vm = start(&image());
    assert_eq!(sh(&vm, "tr '\\0' ' ' < /proc/1/cmdline | cut -c 1-5"), "sh -c\n");
    let script = "for kind in pid mnt; do
        [ $(readlink /proc/self/ns/$kind) = $(readlink /proc/1/ns/$kind) ] && echo same; done";
    assert_eq!(sh(&vm, script), "same\nsame\n");
    assert_eq!(sh(&vm, "ps -o comm | grep -c '^init$' || true"), "0\n");
    // Nothing covers /proc: a user's own sandbox may have one.
    let script = "unshare -Urpf --mount-proc sh -c 'echo $$; (ls -d /proc/[0-9]*); true'";
    let builder = vm.exec_builder().argv(["sh", "-c", script]).user("app");
    assert_eq!(succeeded(&builder.output().unwrap(), script), "1\n/proc/1\n/proc/2\n");
    // A time-out still ends all processes of a command.
    let script = "setsid sleep 2021 & sleep 2022";
    let builder = vm.exec_builder().argv(["sh", "-c", script]);
    assert!(builder.timeout(Duration::from_secs(2)).output().unwrap().timed_out);
    eventually("the processes live on", || {
        sh(&vm, "ps | grep -c 'sleep 202[12]' || true") == "0\n"
    });
}

#[test]
fn orphans_belong_to_the_entrypoint_which_reaps_them() {
    let vm = start(&image());
    let pid = sh(&vm, "sleep 1000 >/dev/null 2>&1 & echo $!");
    let pid = pid.trim();
    assert_eq!(sh(&vm, &format!("awk '/^PPid/ {{print $2}}' /proc/{pid}/status")), "1\n");
    sh(&vm, &format!("kill {pid}"));
    eventually("a zombie remains", || sh(&vm, &format!("ls -d /proc/{pid} || true")).is_empty());
}

#[test]
fn files_are_copied_to_the_mounts_of_the_image() {
    let vm = start(&image());
    sh(&vm, "mkdir /mounted && mount -t tmpfs tmpfs /mounted");
    vm.write_file("/mounted/file", "through the host").unwrap();
    assert_eq!(sh(&vm, "cat /mounted/file"), "through the host");
    assert_eq!(vm.read_file("/mounted/file").unwrap(), b"through the host");
}

#[test]
fn signal_reaches_the_entrypoint_and_its_status_the_host() {
    let vm = start(&image());
    vm.workload_signal(15).unwrap();
    assert_eq!(vm.wait().unwrap().code(), Some(7));
    assert!(logs(&vm).ends_with("asked\n"), "{}", logs(&vm));
}

#[test]
fn end_of_the_entrypoint_kills_its_processes_and_leaves_the_machine() {
    let vm = start(&image());
    sh(
        &vm,
        "echo kept > /tmp/file; mkdir /mounted; mount -t tmpfs tmpfs /mounted; echo > /mounted/x",
    );
    let mut child = vm.exec_builder().argv(["sleep", "1000"]).spawn().unwrap();
    sh(&vm, "setsid sleep 2031 >/dev/null 2>&1 &");
    vm.workload_signal(9).unwrap();
    assert_eq!(child.wait().unwrap().status.signal(), Some(9));
    assert_eq!(vm.wait().unwrap().signal(), Some(9));
    // Later commands see what the agent sees.
    let script = "cat /proc/1/comm /tmp/file; ls /mounted; ps | grep -c '[s]leep 2031' || true";
    assert_eq!(sh(&vm, script), "init\nkept\n0\n");
}

#[test]
fn bake_waits_for_a_port_of_an_entrypoint_that_is_pid_1() {
    let describe = || {
        let argv = ["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/bin"];
        bake("busybox").init(Init::Image).entrypoint(argv).ready(Ready::Tcp(8080))
    };
    let vm = baked("init-httpd", describe).start(&VmConfig::new()).unwrap();
    assert_eq!(sh(&vm, "wget -q -O - http://127.0.0.1:8080/true | head -c 4 | tail -c 3"), "ELF");
}
