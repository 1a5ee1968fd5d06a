//! What software expects of a Linux machine: kernel, settings, devices, file systems, processes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use supermachine::{Error, Vm, host};
use supermachine_formats::snapshot::Architecture;
use supermachine_test_support::machines::{bake, baked, busybox, sh, start, succeeded};

/// One machine for all tests that leave nothing behind.
fn vm() -> &'static Vm {
    static VM: OnceLock<Vm> = OnceLock::new();
    VM.get_or_init(|| start(&busybox()))
}

/// A machine with Python, which reaches system calls that busybox does not.
fn python() -> Vm {
    start(&baked("python3", || bake("python3").entrypoint(["sleep", "1000000"])))
}

/// Runs a script as an ordinary user.
fn as_app(vm: &Vm, script: &str) -> String {
    let outcome = vm.exec_builder().argv(["sh", "-c", script]).user("app").output().unwrap();
    succeeded(&outcome, script)
}

#[test]
fn settings_are_those_of_a_container_host() {
    let script = "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range \
        vm/max_map_count fs/inotify/max_user_watches fs/inotify/max_user_instances \
        net/core/somaxconn kernel/dmesg_restrict; ulimit -Hn";
    let expected = "0\n0\t2147483647\n1048576\n1048576\n8192\n4096\n0\n1048576\n";
    assert_eq!(sh(vm(), script), expected);
    // An ordinary user listens below 1024, and reads the kernel's messages.
    let script = "httpd -f -p 127.0.0.1:81 -h /bin & for n in $(seq 100); do \
        wget -q -O /dev/null http://127.0.0.1:81/true && break; sleep 0.1; done; \
        [ $n -lt 100 ] && dmesg > /dev/null && echo well; kill $!";
    assert_eq!(as_app(vm(), script), "well\n");
}

#[test]
fn devices_for_all_users_are_open_to_all() {
    assert_eq!(
        sh(vm(), "stat -c '%a %F' /dev/fuse /dev/net/tun"),
        "666 character special file\n666 character special file\n"
    );
    assert_eq!(as_app(vm(), "exec 3<>/dev/fuse 4<>/dev/net/tun && echo open"), "open\n");
}

#[test]
fn no_part_of_proc_is_hidden_by_a_mount() {
    assert_eq!(sh(vm(), "awk '$2 ~ \"^/proc/\"' /proc/mounts"), "");
    // So a user can mount /proc in a sandbox.
    let script = "unshare -Urpf --mount-proc sh -c 'echo $$; (ls -d /proc/[0-9]*); true'";
    assert_eq!(as_app(vm(), script), "1\n/proc/1\n/proc/2\n");
}

/// What `programs/kernel.py` prints on a kernel that lacks nothing, after the first line.
const KERNEL: &str = "\
process_vm_readv: works
memfd_secret: works
get_mempolicy: works
io_uring_setup: works
file handles: works
file systems: works
loop devices: works
quota: works
binfmt_misc: works
AF_ALG: works
interfaces: lo
interfaces of a new network: lo
links: works
tun: works
netem: works
policy routing: works
iptables: works
nftables compat: works
conntrack netlink: works
bridge netfilter: 1
SCTP: works
";

#[test]
fn kernel_does_what_software_expects() {
    let vm = python();
    vm.write_file("/tmp/kernel.py", include_bytes!("programs/kernel.py")).unwrap();
    let outcome = vm.exec(["python3", "/tmp/kernel.py"]).unwrap();
    // Not every arm64 processor runs 32-bit programs, so guests there do not.
    let small = match host::architecture() {
        Architecture::X86_64 => "exits with 42",
        Architecture::Aarch64 => "ENOEXEC",
    };
    let expected = format!("32-bit program: {small}\n{KERNEL}");
    assert_eq!(succeeded(&outcome, "kernel.py"), expected);
}

#[test]
fn fresh_machine_has_no_interface_but_loopback() {
    assert_eq!(sh(vm(), "ls /sys/class/net"), "lo\n");
    assert_eq!(sh(vm(), "unshare -n sed -n 's/^ *\\([a-z0-9]*\\):.*/\\1/p' /proc/net/dev"), "lo\n");
}

#[test]
fn directory_of_the_image_can_be_renamed() {
    let vm = start(&busybox());
    let script = "before=$(stat -c %i /etc/passwd); echo '# more' >> /etc/passwd
        [ $before = $(stat -c %i /etc/passwd) ] && echo same
        mv /etc /etc-renamed && tail -n 1 /etc-renamed/passwd && mv /etc-renamed /etc";
    assert_eq!(sh(&vm, script), "same\n# more\n");
}

#[test]
fn files_are_limited_by_memory_and_not_by_number() {
    let vm = start(&busybox());
    // By default, tmpfs allows half as many files as there are pages of memory.
    let script =
        "mkdir /tmp/many; cd /tmp/many; i=0; while [ $i -lt 20000 ]; do : > $i; i=$((i+1)); done
        ls | wc -l; rm -rf /tmp/many";
    assert_eq!(sh(&vm, script), "20000\n");
}

#[test]
fn machine_survives_full_file_systems() {
    let vm = start(&busybox());
    let script = "for file in /dev/shm/full /tmp/full; do dd if=/dev/zero of=$file bs=1M 2>&1 | \
        grep -c 'No space left'; done";
    assert_eq!(sh(&vm, script), "1\n1\n");
    for _ in 0..3 {
        assert_eq!(sh(&vm, "echo alive"), "alive\n");
    }
    assert_eq!(sh(&vm, "rm /dev/shm/full /tmp/full; echo done"), "done\n");
}

#[test]
fn command_that_eats_all_memory_is_killed_and_others_run() {
    let vm = start(&busybox());
    let outcome = vm.exec(["sh", "-c", "tail /dev/zero"]).unwrap();
    assert!(!outcome.success(), "{}", outcome.status);
    assert_eq!(sh(&vm, "echo alive; cat /proc/1/comm"), "alive\ninit\n");
}

#[test]
fn fork_bomb_is_killed_with_its_command() {
    let vm = start(&busybox());
    let builder =
        vm.exec_builder().argv(["sh", "-c", "bomb() { bomb | bomb & }; bomb; sleep 1000"]);
    let outcome = builder.timeout(Duration::from_secs(3)).output();
    // The guest may be too busy to answer in time.
    assert!(
        matches!(&outcome, Ok(outcome) if outcome.timed_out || !outcome.success())
            || matches!(outcome, Err(Error::Unanswered { .. })),
        "{outcome:?}"
    );
    let begin = Instant::now();
    while sh(&vm, "ps | grep -c '[s]h -c bomb' || true") != "0\n" {
        assert!(begin.elapsed() < Duration::from_secs(60), "the bomb still runs");
    }
}

#[test]
fn each_command_has_its_own_control_group() {
    let of = |vm: &Vm| sh(vm, "cat /proc/self/cgroup");
    assert!(of(vm()).starts_with("0::/commands/"), "{}", of(vm()));
    let delegated = sh(vm(), "cat /sys/fs/cgroup/cgroup.subtree_control");
    for controller in ["cpu", "io", "memory", "pids"] {
        assert!(delegated.split_whitespace().any(|name| name == controller), "{delegated}");
    }
}

#[test]
fn timeout_kills_processes_in_other_sessions() {
    let vm = start(&busybox());
    let script = "setsid sh -c 'sleep 2001; true' & (setsid setsid sleep 2002 &); sleep 2003";
    let builder = vm.exec_builder().argv(["sh", "-c", script]);
    assert!(builder.timeout(Duration::from_secs(2)).output().unwrap().timed_out);
    assert_eq!(sh(&vm, "ps | grep -c 'sleep 200[123]' || true"), "0\n");
}

#[test]
fn kill_and_drop_kill_processes_in_other_sessions() {
    let vm = start(&busybox());
    let script = "setsid sleep 2011 & echo; sleep 2012";
    let mut child = vm.exec_builder().argv(["sh", "-c", script]).spawn().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    drop(vm.exec_builder().argv(["sh", "-c", script]).spawn().unwrap());
    let begin = Instant::now();
    while sh(&vm, "ps | grep -c 'sleep 201[12]' || true") != "0\n" {
        assert!(begin.elapsed() < Duration::from_secs(20), "processes survive");
    }
}

#[test]
fn background_process_survives_and_can_write() {
    let vm = start(&busybox());
    let script = "(sleep 1; echo one; echo two >&2; echo three; echo lived > /tmp/lived) & true";
    assert!(vm.exec(["sh", "-c", script]).unwrap().success());
    let begin = Instant::now();
    while sh(&vm, "cat /tmp/lived 2>/dev/null || true") != "lived\n" {
        assert!(begin.elapsed() < Duration::from_secs(30), "the process was killed");
    }
}

#[test]
fn timeout_applies_while_a_debugger_stops_the_agent() {
    let vm = python();
    let script = "
import ctypes, os, time
libc = ctypes.CDLL(None)
if os.fork() == 0:
    libc.ptrace(16, 1, None, None)
    time.sleep(100000)
time.sleep(100000)
";
    let limit = Duration::from_secs(2);
    let begin = Instant::now();
    let outcome = vm.exec_builder().argv(["python3", "-c", script]).timeout(limit).output();
    assert!(matches!(outcome, Err(Error::Unanswered { .. })), "{outcome:?}");
    for stdin in [Vec::new(), vec![0; 1 << 20]] {
        let again = vm.exec_builder().argv(["cat"]).stdin(stdin).timeout(limit).output();
        assert!(matches!(again, Err(Error::Unanswered { .. })), "{again:?}");
    }
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    vm.stop().unwrap();
}
