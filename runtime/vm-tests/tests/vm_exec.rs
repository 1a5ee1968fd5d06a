//! Commands in a machine: their inputs, results and failures.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use supermachine::error::InvalidInput;
use supermachine::{Error, Vm, VmConfig};
use supermachine_test_support::machines::{busybox, sh, start, succeeded};

const ENOENT: u16 = 2;
const EACCES: u16 = 13;

/// One machine for all tests that leave nothing behind.
fn vm() -> &'static Vm {
    static VM: OnceLock<Vm> = OnceLock::new();
    VM.get_or_init(|| start(&busybox()))
}

/// The failed operation, its subject, and the error number.
fn failure(result: Result<supermachine::ExecOutcome, Error>) -> (String, String, u16) {
    match result {
        Err(Error::Agent { failure }) => {
            (failure.operation.to_string(), failure.subject, failure.errno)
        }
        other => panic!("not a failure of the agent: {other:?}"),
    }
}

#[test]
fn echo_prints_its_arguments() {
    let outcome = vm().exec(["echo", "a b", "", "ü"]).unwrap();
    assert_eq!(outcome.stdout, "a b  ü\n".as_bytes());
    assert_eq!(outcome.stderr, b"");
    assert!(outcome.success() && !outcome.timed_out);
    assert!(outcome.duration > Duration::ZERO);
}

#[test]
fn stdout_and_stderr_are_separate() {
    let outcome = vm().exec(["sh", "-c", "echo out; echo err >&2; echo more"]).unwrap();
    assert_eq!((&outcome.stdout[..], &outcome.stderr[..]), (&b"out\nmore\n"[..], &b"err\n"[..]));
}

#[test]
fn streams_can_be_opened_by_name() {
    let script = "echo out > /dev/stdout; echo err > /dev/stderr";
    for user in ["root", "app"] {
        let outcome = vm().exec_builder().argv(["sh", "-c", script]).user(user).output().unwrap();
        assert_eq!((&outcome.stdout[..], &outcome.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    }
}

#[test]
fn output_may_be_any_bytes() {
    // Every byte value, then zeros.
    let script = "i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %o $i)\"; i=$((i+1)); done; \
                  head -c 1000 /dev/zero";
    let outcome = vm().exec(["sh", "-c", script]).unwrap();
    let expected: Vec<u8> = (0..=255).chain([0; 1000]).collect();
    assert_eq!(outcome.stdout, expected);
}

#[test]
fn standard_input_is_empty() {
    assert_eq!(sh(vm(), "wc -c; readlink /proc/self/fd/0"), "0\n/dev/null\n");
}

#[test]
fn every_exit_code_arrives() {
    for code in 0..=255 {
        let outcome = vm().exec(["sh", "-c", &format!("exit {code}")]).unwrap();
        assert_eq!(outcome.status.code(), Some(code));
        assert_eq!(outcome.status.signal(), None);
        assert_eq!(outcome.success(), code == 0);
    }
}

#[test]
fn signals_are_distinct_from_exit_codes() {
    for signal in [1, 6, 9, 11, 15] {
        let outcome = vm().exec(["sh", "-c", &format!("kill -{signal} $$")]).unwrap();
        assert_eq!(outcome.status.signal(), Some(signal));
        assert_eq!(outcome.status.code(), None);
        assert!(!outcome.success() && !outcome.timed_out);
    }
}

#[test]
fn environment_is_the_images_plus_the_commands() {
    let outcome =
        vm().exec_builder().argv(["env"]).env("OWN", "x=y z").env("PATH", "/bin").output().unwrap();
    let text = String::from_utf8(outcome.stdout).unwrap();
    let found: BTreeSet<_> = text.lines().collect();
    let expected = ["HOME=/root", "HOSTNAME=supermachine", "OWN=x=y z", "PATH=/bin"];
    assert_eq!(found, expected.into_iter().collect());
}

#[test]
fn cleared_environment_holds_nothing_else() {
    let builder = vm().exec_builder().argv(["/bin/env"]).env_clear().env("ONLY", "1");
    assert_eq!(builder.output().unwrap().stdout, b"ONLY=1\n");
}

#[test]
fn working_directory_is_the_requested_one() {
    let outcome = vm().exec_builder().argv(["pwd"]).cwd("/usr/bin").output().unwrap();
    assert_eq!(outcome.stdout, b"/usr/bin\n");
    assert_eq!(sh(vm(), "pwd"), "/\n");
}

#[test]
fn user_is_known_by_name_and_by_number() {
    let id = |user: &str| {
        let outcome = vm().exec_builder().argv(["id"]).user(user).output().unwrap();
        succeeded(&outcome, user)
    };
    let app = "uid=1000(app) gid=1000(app) groups=50(extra),1000(app)\n";
    assert_eq!(sh(vm(), "id -u; id -g"), "0\n0\n");
    assert_eq!(id("app").replace("groups=1000(app),50(extra)", "groups=50(extra),1000(app)"), app);
    assert_eq!(id("1000"), id("app"));
    assert!(id("1234:77").starts_with("uid=1234 gid=77"));
    assert!(id("app:daemon").starts_with("uid=1000(app) gid=1(daemon)"));
    let home = vm().exec_builder().argv(["sh", "-c", "echo $HOME"]).user("app").output().unwrap();
    assert_eq!(home.stdout, b"/home\n");
}

#[test]
fn user_lacks_the_rights_of_root() {
    let script = "touch /etc/x; echo $?; cat /proc/1/environ; echo $?; touch /tmp/mine; echo $?";
    let outcome = vm().exec_builder().argv(["sh", "-c", script]).user("app").output().unwrap();
    assert_eq!(outcome.stdout, b"1\n1\n0\n");
}

#[test]
fn timeout_kills_the_process_group_and_keeps_the_output() {
    let script = "echo before; sleep 1001 & sleep 1002";
    let begin = Instant::now();
    let builder = vm().exec_builder().argv(["sh", "-c", script]);
    let outcome = builder.timeout(Duration::from_millis(1500)).output().unwrap();
    assert!(outcome.timed_out);
    assert_eq!(outcome.status.signal(), Some(9));
    assert_eq!(outcome.stdout, b"before\n");
    assert!(outcome.duration >= Duration::from_millis(1500), "{:?}", outcome.duration);
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    assert_eq!(sh(vm(), "ps | grep -c 'sleep 100[12]' || true"), "0\n");
    assert_eq!(sh(vm(), "echo usable"), "usable\n");
}

#[test]
fn timeout_that_is_not_reached_changes_nothing() {
    let builder = vm().exec_builder().argv(["sh", "-c", "sleep 0.1; echo done"]);
    let outcome = builder.timeout(Duration::from_secs(60)).output().unwrap();
    assert!(!outcome.timed_out);
    assert_eq!(outcome.stdout, b"done\n");
}

#[test]
fn missing_program_is_named_with_its_error_number() {
    for program in ["no-such-program", "/no/such/program", "/etc/passwd/x"] {
        let (operation, subject, errno) = failure(vm().exec([program]));
        assert_eq!((&operation[..], &subject[..], errno), ("execve", program, ENOENT));
    }
}

#[test]
fn program_without_permission_is_named_with_its_error_number() {
    for program in ["/etc/passwd", "/bin"] {
        let (operation, subject, errno) = failure(vm().exec([program]));
        assert_eq!((&operation[..], &subject[..], errno), ("execve", program, EACCES));
    }
}

#[test]
fn script_without_an_interpreter_fails_clearly() {
    sh(vm(), "printf '#!/no/interpreter\\n' > /tmp/script; chmod 755 /tmp/script");
    let (operation, subject, errno) = failure(vm().exec(["/tmp/script"]));
    assert_eq!((&operation[..], &subject[..], errno), ("execve", "/tmp/script", ENOENT));
}

#[test]
fn missing_directory_and_user_are_named() {
    let result = vm().exec_builder().argv(["true"]).cwd("/no/such").output();
    assert_eq!(failure(result), ("chdir".into(), "/no/such".into(), ENOENT));
    let result = vm().exec_builder().argv(["true"]).user("stranger").output();
    assert_eq!(failure(result), ("find user".into(), "stranger".into(), ENOENT));
    let result = vm().exec_builder().argv(["true"]).user("app:strangers").output();
    assert_eq!(failure(result), ("find group".into(), "app:strangers".into(), ENOENT));
}

#[test]
fn empty_command_is_refused_by_the_host() {
    let none: [&str; 0] = [];
    assert!(matches!(vm().exec(none), Err(Error::Invalid { source: InvalidInput::EmptyCommand })));
    let (operation, _, _) = failure(vm().exec([""]));
    assert_eq!(operation, "execve");
}

#[test]
fn zero_byte_in_an_argument_is_refused() {
    let refused = |builder: supermachine::ExecBuilder<'_>, wanted: &str| {
        let error = builder.output().unwrap_err();
        assert!(
            matches!(error, Error::Invalid { source: InvalidInput::ZeroByte { what } } if what == wanted),
            "{error:?}"
        );
    };
    let echo = || vm().exec_builder().argv(["echo", "x"]);
    refused(vm().exec_builder().argv(["echo", "a\0b"]), "argument");
    refused(echo().env("A", "a\0b"), "environment");
    refused(echo().cwd("/a\0b"), "working directory");
    refused(echo().user("a\0b"), "user");
}

#[test]
fn arguments_and_environment_of_128_kib_arrive() {
    let arguments: Vec<String> = (0..64).map(|n| format!("{n:01023}")).collect();
    let script = "for a; do :; done; echo $# ${#a} $a | tail -c 6; env | grep ^V | wc -c";
    let mut builder = vm()
        .exec_builder()
        .argv(["sh", "-c", script, "sh"].into_iter().chain(arguments.iter().map(String::as_str)));
    for n in 0..64 {
        builder = builder.env(format!("V{n:02}"), "x".repeat(1019));
    }
    let outcome = builder.output().unwrap();
    // Each variable: its name, `=`, its value, a line end.
    assert_eq!(succeeded(&outcome, "large"), format!("00063\n{}\n", 64 * (3 + 1 + 1019 + 1)));
}

#[test]
fn command_that_is_too_large_is_refused_and_the_machine_stays_usable() {
    let result = vm().exec(["echo", &"x".repeat(2 << 20)]);
    assert!(
        matches!(result, Err(Error::Invalid { source: InvalidInput::CommandTooLarge { .. } })),
        "{result:?}"
    );
    assert_eq!(sh(vm(), "echo usable"), "usable\n");
}

#[test]
fn ten_mebibytes_of_output_arrive_whole() {
    let script = "i=0; while [ $i -lt 10 ]; do cat /tmp/piece; i=$((i+1)); done";
    sh(vm(), "yes 0123456789abcde | head -c 1048576 > /tmp/piece");
    let outcome = vm().exec(["sh", "-c", script]).unwrap();
    assert!(outcome.success());
    assert_eq!(outcome.stdout.len(), 10 << 20);
    assert!(outcome.stdout.chunks(16).all(|line| line == b"0123456789abcde\n"));
}

#[test]
fn twenty_commands_run_at_once() {
    thread::scope(|scope| {
        let running: Vec<_> = (0..20)
            .map(|n| {
                scope.spawn(move || {
                    let script = format!("sleep 1; echo {n}; exit {n}");
                    vm().exec(["sh", "-c", &script]).unwrap()
                })
            })
            .collect();
        for (n, thread) in running.into_iter().enumerate() {
            let outcome = thread.join().unwrap();
            assert_eq!(outcome.stdout, format!("{n}\n").as_bytes());
            assert_eq!(outcome.status.code(), Some(i32::try_from(n).unwrap()));
        }
    });
}

#[test]
fn background_process_does_not_delay_the_command() {
    let begin = Instant::now();
    let pid = sh(vm(), "sleep 1003 & echo $!");
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(sh(vm(), &format!("kill {} && echo killed", pid.trim())), "killed\n");
}

#[test]
fn orphans_are_reaped() {
    sh(vm(), "(sh -c 'sleep 0.23 & sleep 0.13 &' &)");
    sh(vm(), "while ps | grep -q '[s]leep 0.[12]3'; do sleep 0.1; done");
    // Processes of other tests may be zombies for a moment.
    let begin = Instant::now();
    let zombies = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null || true";
    while !sh(vm(), zombies).is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(30), "a zombie stays");
    }
}

/// The guest's kernel counts pages per processor in batches of 32, so it may miss those of a small
/// program.
#[test]
fn peak_memory_is_reported() {
    let outcome = vm().exec(["dd", "if=/dev/zero", "of=/dev/null", "bs=16M", "count=1"]).unwrap();
    let peak = outcome.peak_rss_kib;
    assert!((16 << 10..32 << 10).contains(&peak), "{peak} KiB");
}

#[test]
fn agent_is_the_first_process() {
    assert_eq!(sh(vm(), "cat /proc/1/comm; tr '\\0' ' ' < /proc/1/cmdline"), "init\n/init ");
}

#[test]
fn root_is_the_image_on_a_mapped_disk_under_a_writable_layer() {
    let mounts = sh(vm(), "cat /proc/1/mounts");
    let find = |target: &str| {
        let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        fields.rfind(|fields| fields[1] == target).map(|f| (f[2].to_owned(), f[3].to_owned()))
    };
    let (kind, options) = find("/").unwrap();
    assert_eq!(kind, "overlay", "{mounts}");
    assert!(options.contains("lowerdir=/image"), "{options}");
    for (target, kind) in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/sys/fs/cgroup", "cgroup2"),
        ("/dev", "devtmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
    ] {
        assert_eq!(find(target).map(|(kind, _)| kind).as_deref(), Some(kind), "{target}\n{mounts}");
    }
    // The image itself is not visible, but the kernel shows how its disk is used.
    let disk = sh(vm(), "cat /sys/block/pmem0/queue/dax /sys/block/pmem0/ro 2>&1");
    assert!(disk.starts_with("1\n"), "{disk}");
}

#[test]
fn writable_layer_is_private_to_each_machine() {
    let image = busybox();
    let (one, two) = (start(&image), start(&image));
    sh(&one, "echo one > /etc/own; echo changed >> /etc/passwd; rm /bin/wget; mkdir /new");
    assert_eq!(sh(&one, "cat /etc/own; tail -n 1 /etc/passwd"), "one\nchanged\n");
    assert_eq!(
        sh(&two, "ls /etc/own /new 2>/dev/null; tail -n 1 /etc/passwd; ls /bin/wget"),
        "nobody:x:65534:65534:nobody:/home:/bin/false\n/bin/wget\n"
    );
    one.stop().unwrap();
    two.stop().unwrap();
}

#[test]
fn devices_that_programs_expect_exist() {
    let mut script = String::new();
    for device in ["null", "zero", "full", "random", "urandom", "tty", "ptmx"] {
        writeln!(script, "[ -c /dev/{device} ] || echo no {device}").unwrap();
    }
    for path in ["fd", "stdin", "stdout", "stderr", "shm", "pts", "mqueue"] {
        writeln!(script, "[ -e /dev/{path} ] || echo no {path}").unwrap();
    }
    script.push_str(
        "echo x > /dev/null; [ $(head -c 5 /dev/zero | wc -c) = 5 ] || echo bad zero
        echo x > /dev/full 2>/dev/null && echo bad full
        echo shared > /dev/shm/x; cat /dev/shm/x; stat -c %a /dev/shm /tmp
        echo 1 | tee /proc/sys/vm/overcommit_memory
        grep -o memory /sys/fs/cgroup/cgroup.controllers
        mkdir /sys/fs/cgroup/test && rmdir /sys/fs/cgroup/test && echo cgroup",
    );
    assert_eq!(sh(vm(), &script), "shared\n1777\n1777\n1\nmemory\ncgroup\n");
}

#[test]
fn loopback_connects_a_server_and_its_client() {
    let vm = start(&busybox());
    let script = "mkdir /www; echo page > /www/index.html
        httpd -p 127.0.0.1:8080 -h /www
        wget -q -O - http://127.0.0.1:8080/ && wget -q -O - http://localhost:8080/
        (echo question | nc -l -p 9000 > /tmp/answer) &
        i=0; while ! netstat -lnt | grep -q :9000; do i=$((i+1)); [ $i = 50 ] && exit 1; sleep 0.1; done
        echo answer | nc -w 5 127.0.0.1 9000; wait; cat /tmp/answer";
    assert_eq!(sh(&vm, script), "page\npage\nquestion\nanswer\n");
    assert_eq!(sh(&vm, "ping -c 1 -q ::1 >/dev/null && echo six"), "six\n");
}

#[test]
fn host_name_is_the_default_or_the_callers() {
    let names = "hostname; cat /etc/hostname; grep -c supermachine /etc/hosts";
    assert_eq!(sh(vm(), names), "supermachine\nsupermachine\n1\n");
    let vm = busybox().start(&VmConfig::new().with_hostname("other-1")).unwrap();
    let names = "hostname; cat /etc/hostname; echo $HOSTNAME; ping -c 1 -q $(hostname) >/dev/null && echo found";
    assert_eq!(sh(&vm, names), "other-1\nother-1\nother-1\nfound\n");
}

#[test]
fn size_other_than_the_snapshots_is_refused() {
    let image = busybox();
    let result = image.start(&VmConfig::new().with_memory_mib(256));
    assert!(
        matches!(
            result,
            Err(Error::Invalid { source: InvalidInput::Mismatch { wanted: 256, found: 128, .. } })
        ),
        "{result:?}"
    );
    let result = image.start(&VmConfig::new().with_vcpus(2));
    assert!(
        matches!(
            result,
            Err(Error::Invalid { source: InvalidInput::Mismatch { wanted: 2, found: 1, .. } })
        ),
        "{result:?}"
    );
    let vm = image.start(&VmConfig::new().with_memory_mib(128).with_vcpus(1)).unwrap();
    assert_eq!(sh(&vm, "nproc"), "1\n");
}
