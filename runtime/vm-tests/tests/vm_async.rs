//! The nonblocking API: machines, commands, files, ports and pools.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../examples/examples/async.rs"]
#[expect(dead_code, reason = "only the example's work is tested, not its main function")]
mod async_example;

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::sync::OnceLock;
use std::time::Duration;

use supermachine::async_::{ExecChild, Pool, PooledVm, Vm};
use supermachine::error::{InvalidInput, PortError, TransferError};
use supermachine::{Error, Image, VmConfig};
use supermachine_test_support::machines::{
    self, bake, baked, busybox, expect_baked, own_store, start,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Longer than anything takes, even on a slow host.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Runs a future on a runtime with one thread.
fn wait_for<F: Future>(future: F) -> F::Output {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(TIMEOUT, future).await.unwrap() })
}

fn vm() -> &'static Vm {
    static VM: OnceLock<Vm> = OnceLock::new();
    VM.get_or_init(|| start(&busybox()).into())
}

async fn spawn(script: &str) -> ExecChild {
    vm().exec_builder().argv(["sh", "-c", script]).spawn().await.unwrap()
}

async fn sh(vm: &Vm, script: &str) -> String {
    machines::succeeded(&vm.exec(["sh", "-c", script]).await.unwrap(), script)
}

/// The threads of this library, of the runtime, and of this test.
fn threads() -> usize {
    let name = |task: &str| fs::read_to_string(format!("/proc/{task}/comm")).unwrap_or_default();
    let own = name("thread-self");
    let tasks = fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    let names = tasks.map(|task| name(&format!("self/task/{}", task.file_name().display())));
    names
        .filter(|name| name.starts_with("sm-") || name.starts_with("tokio") || *name == own)
        .count()
}

#[test]
fn machine_starts_runs_a_command_and_stops() {
    let image = busybox();
    wait_for(async {
        let vm = Vm::start(&image, &VmConfig::new().with_hostname("awaited")).await.unwrap();
        let outcome = vm
            .exec_builder()
            .argv(["sh", "-c", "echo $GREETING $(hostname) $(pwd) $(id -un); cat; exit 3"])
            .env("GREETING", "hi")
            .cwd("/tmp")
            .user("app")
            .stdin("given")
            .output()
            .await
            .unwrap();
        assert_eq!(outcome.status.code(), Some(3));
        assert_eq!(outcome.stdout, b"hi awaited /tmp app\ngiven");
        assert!(!vm.timings().steps().is_empty());
        let stats = vm.stats().await.unwrap();
        assert!(stats.memory_used_kib > 0 && stats.cpu_time > Duration::ZERO);
        vm.stop().await.unwrap();
        let refused = Vm::start(&image, &VmConfig::new().with_memory_mib(99)).await;
        assert!(
            matches!(
                refused,
                Err(Error::Invalid { source: InvalidInput::Mismatch { wanted: 99, .. } })
            ),
            "{refused:?}"
        );
    });
}

#[test]
fn sixty_four_concurrent_commands_add_no_threads() {
    const COMMANDS: usize = 64;
    wait_for(async {
        sh(vm(), ": > /tmp/begun").await;
        let before = threads();
        let mut children = Vec::new();
        for n in 0..COMMANDS {
            children.push(spawn(&format!("read line; echo $line {n}")).await);
        }
        let mut tasks = JoinSet::new();
        for _ in 0..COMMANDS {
            tasks.spawn(async move {
                let script =
                    "echo >> /tmp/begun; until [ -e /tmp/go ]; do sleep 0.5; done; echo done";
                let outcome = vm().exec(["sh", "-c", script]).await.unwrap();
                assert_eq!(outcome.stdout, b"done\n");
                (0, b"go 0\n".to_vec())
            });
        }
        let all = format!("until [ $(wc -l < /tmp/begun) = {COMMANDS} ]; do sleep 0.1; done");
        sh(vm(), &all).await;
        assert_eq!(threads(), before);
        sh(vm(), "touch /tmp/go").await;
        for (n, mut child) in children.into_iter().enumerate() {
            tasks.spawn(async move {
                let mut stdin = child.stdin().unwrap();
                stdin.write_all(b"go\n").await.unwrap();
                drop(stdin);
                (n, child.wait_with_output().await.unwrap().stdout)
            });
        }
        while let Some(done) = tasks.join_next().await {
            let (n, stdout) = done.unwrap();
            assert_eq!(stdout, format!("go {n}\n").into_bytes());
        }
        assert_eq!(threads(), before);
    });
}

#[test]
fn slow_reader_loses_nothing_and_blocks_the_command() {
    let content: Vec<u8> = (0..5_000_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    wait_for(async {
        vm().write_file("/tmp/binary", &content).await.unwrap();
        let mut child = spawn("cat /tmp/binary; echo done >&2").await;
        // Time to write everything, if nothing held the command back.
        sleep(Duration::from_millis(300)).await;
        assert!(child.try_wait().unwrap().is_none(), "the command did not block");
        let (mut stdout, mut all) = (child.stdout().unwrap(), Vec::new());
        let mut piece = vec![0; 100_000];
        loop {
            let count = stdout.read(&mut piece).await.unwrap();
            if count == 0 {
                break;
            }
            all.extend_from_slice(&piece[..count]);
            // The reader is slow.
            sleep(Duration::from_millis(2)).await;
        }
        assert!(all == content);
        assert_eq!(child.wait_with_output().await.unwrap().stderr, b"done\n");
    });
}

#[test]
fn input_of_any_size_comes_back_through_cat() {
    let input: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    wait_for(async {
        let outcome = vm().exec_builder().argv(["cat"]).stdin(input.clone()).output().await;
        assert!(outcome.unwrap().stdout == input);
        // The input given at the start comes first, even if little of it fits at once.
        let builder = vm().exec_builder().argv(["cat"]).stdin(input.clone());
        let mut child = builder.spawn().await.unwrap();
        let (mut stdin, mut stdout) = (child.stdin().unwrap(), child.stdout().unwrap());
        let write = async {
            stdin.write_all(&input).await.unwrap();
            stdin.shutdown().await.unwrap();
        };
        let mut all = Vec::new();
        let (_, read) = tokio::join!(write, stdout.read_to_end(&mut all));
        assert_eq!(read.unwrap(), 2 * input.len());
        assert!(all[..input.len()] == input && all[input.len()..] == input);
        assert!(child.wait().await.unwrap().success());
    });
}

#[test]
fn output_arrives_as_it_is_written_up_to_its_limit() {
    wait_for(async {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let builder = vm().exec_builder().argv(["sh", "-c", "echo out; echo err >&2; exit 4"]);
        let outcome = builder.output_to(&mut stdout, &mut stderr).await.unwrap();
        assert_eq!((&stdout[..], &stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!((outcome.status.code(), outcome.stdout.len()), (Some(4), 0));
        let result = vm().exec_builder().argv(["yes"]).max_output(100_000).output().await;
        assert!(
            matches!(
                result,
                Err(Error::Transfer {
                    source: TransferError::OutputTooLarge { limit: 100_000, .. }
                })
            ),
            "{result:?}"
        );
        let missing = vm().exec(["/none"]).await;
        assert!(matches!(missing, Err(Error::Agent { failure }) if failure.errno == 2));
        assert!(matches!(
            vm().exec([""; 0]).await,
            Err(Error::Invalid { source: InvalidInput::EmptyCommand })
        ));
    });
}

#[test]
fn command_is_killed_while_another_future_waits() {
    wait_for(async {
        let mut child = spawn("echo up; sleep 1020").await;
        child.stdout().unwrap().read_exact(&mut [0; 3]).await.unwrap();
        let signaler = child.signaler();
        // `join!` polls the wait first.
        let kill = async { signaler.signal(15).unwrap() };
        let (outcome, ()) = tokio::join!(child.wait(), kill);
        assert_eq!(outcome.unwrap().status.signal(), Some(15));
        let mut child = spawn("trap '' TERM; echo up; sleep 1021 & sleep 1022").await;
        child.stdout().unwrap().read_exact(&mut [0; 3]).await.unwrap();
        // A sequence of futures that are dropped soon.
        let mut tries = 0;
        let outcome = loop {
            match timeout(Duration::from_millis(20), child.wait()).await {
                Ok(outcome) => break outcome,
                Err(_) if tries == 3 => child.kill().unwrap(),
                Err(_) => {}
            }
            tries += 1;
        };
        assert_eq!(outcome.unwrap().status.signal(), Some(9));
        gone("sleep 102[0-9]$").await;
    });
}

/// Waits until no command line in the guest matches.
async fn gone(pattern: &str) {
    let script = format!(
        "i=0; while ps | grep -q '{pattern}' && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done; ps | grep -c '{pattern}' || true"
    );
    assert_eq!(sh(vm(), &script).await, "0\n");
}

#[test]
fn dropped_future_kills_its_command() {
    wait_for(async {
        let limit = Duration::from_millis(500);
        assert!(timeout(limit, vm().exec(["sh", "-c", "sleep 1031 & sleep 1032"])).await.is_err());
        let child = spawn("sleep 1033").await;
        assert!(timeout(limit, child.wait_with_output()).await.is_err());
        drop(spawn("sleep 1034").await);
        gone("sleep 103[0-9]$").await;
    });
}

#[test]
fn timeout_kills_the_process_group_and_keeps_the_output() {
    wait_for(async {
        let script = "echo before; sleep 1041 & sleep 1042";
        let builder = vm().exec_builder().argv(["sh", "-c", script]);
        let outcome = builder.timeout(Duration::from_secs(1)).output().await.unwrap();
        assert!(outcome.timed_out && !outcome.success());
        assert_eq!(outcome.stdout, b"before\n");
        gone("sleep 104[0-9]$").await;
    });
}

#[test]
fn command_on_a_terminal_has_its_size_and_type() {
    wait_for(async {
        let script = "trap 'stty size; exit 6' WINCH; tty; stty size; echo $TERM; while :; do sleep 0.1; done";
        let builder = vm().exec_builder().argv(["sh", "-c", script]).tty(true).winsize(30, 90);
        let mut child = builder.spawn().await.unwrap();
        let mut stdout = child.stdout().unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"xterm\r\n") {
            seen.push(stdout.read_u8().await.unwrap());
        }
        let seen = String::from_utf8(seen).unwrap();
        assert!(seen.starts_with("/dev/pts/") && seen.contains("\r\n30 90\r\n"), "{seen:?}");
        child.resize(5, 6).unwrap();
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "5 6\r\n");
        assert_eq!(child.wait().await.unwrap().status.code(), Some(6));
        let typed = vm().exec_builder().argv(["cat"]).tty(true).stdin("x\n").output().await;
        assert!(typed.unwrap().success());
    });
}

#[test]
fn files_read_back_as_written() {
    wait_for(async {
        for size in [0_usize, 1, 65_536, 262_144, 262_145, 3_000_000] {
            let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            vm().write_file("/tmp/async-back", &content).await.unwrap();
            assert!(vm().read_file("/tmp/async-back").await.unwrap() == content, "{size} bytes");
        }
        vm().file("/tmp/async-log").mode(0o640).owner("app").write("one\n").await.unwrap();
        let mut writer = vm().file("/tmp/async-log").append(true).writer().unwrap();
        writer.write_all(b"two\n").await.unwrap();
        writer.finish().await.unwrap();
        let seen = sh(vm(), "cat /tmp/async-log; stat -c '%a %U' /tmp/async-log").await;
        assert_eq!(seen, "one\ntwo\n640 app\n");
        let mut reader = vm().file_reader("/tmp/async-log").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "one\ntwo\n");
        let missing = vm().read_file("/none").await;
        assert!(matches!(missing, Err(Error::Agent { failure }) if failure.subject == "/none"));
        assert!(matches!(
            vm().write_file("x", "").await,
            Err(Error::Invalid { source: InvalidInput::Path { .. } })
        ));
        sh(vm(), "mkdir /small; mount -t tmpfs -o size=1m tmpfs /small").await;
        let full = vm().write_file("/small/x", vec![1; 20 << 20]).await;
        assert!(matches!(full, Err(Error::Agent { failure }) if failure.errno == 28));
    });
}

#[test]
fn directories_are_copied_in_and_out_as_tar_archives() {
    let mut archive = tar::Builder::new(Vec::new());
    let content: Vec<u8> = (0..700_000_u32).map(|n| (n % 253) as u8).collect();
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o640);
    archive.append_data(&mut header, "a/big", &content[..]).unwrap();
    let archive = archive.into_inner().unwrap();
    wait_for(async {
        vm().copy_in("/srv/async", &archive[..]).await.unwrap();
        let seen = sh(vm(), "stat -c '%a %s' /srv/async/a/big").await;
        assert_eq!(seen, "640 700000\n");
        let mut out = Vec::new();
        vm().copy_out("/srv/async/a", &mut out).await.unwrap();
        let mut archive = tar::Archive::new(&out[..]);
        let files = archive.entries().unwrap().map(Result::unwrap);
        let mut file = files.into_iter().find(|file| file.size() > 0).unwrap();
        let mut again = Vec::new();
        file.read_to_end(&mut again).unwrap();
        assert!(again == content);
        assert!(vm().copy_out("/none", tokio::io::sink()).await.is_err());
        let broken = vm().copy_in("/tmp/t", &[1_u8; 600][..]).await;
        assert!(matches!(broken, Err(Error::Agent { failure }) if failure.errno == 74));
    });
}

#[test]
fn workload_receives_signals_and_is_waited_for() {
    let script = "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done";
    let image = baked("trap", || bake("busybox").entrypoint(["sh", "-c", script]));
    wait_for(async {
        let vm = Vm::start(&image, &VmConfig::new()).await.unwrap();
        assert!(timeout(Duration::from_millis(50), vm.wait()).await.is_err());
        let signal = async { vm.workload_signal(15).await.unwrap() };
        let (status, ()) = tokio::join!(vm.wait(), signal);
        assert_eq!(status.unwrap().code(), Some(9));
        assert_eq!(vm.wait().await.unwrap().code(), Some(9));
        let late = vm.workload_signal(15).await;
        assert!(matches!(late, Err(Error::Agent { failure }) if failure.errno == 3));
        let none = vm.workload_signal(0).await;
        assert!(matches!(none, Err(Error::Invalid { source: InvalidInput::Signal { number: 0 } })));
    });
}

#[test]
fn ports_connect_both_ways() {
    wait_for(async {
        sh(vm(), "setsid nc -ll -p 7001 -e cat </dev/null >/dev/null 2>&1 &").await;
        let mut stream = loop {
            match vm().connect(7001).await {
                Ok(stream) => break stream,
                Err(Error::Port { source: PortError::Guest { port: 7001, source } }) => {
                    assert_eq!(source.kind(), ErrorKind::ConnectionRefused);
                }
                Err(error) => panic!("{error}"),
            }
            // No event says when `nc` listens.
            sleep(Duration::from_millis(50)).await;
        };
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let write = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut back = Vec::new();
        let (_, count) = tokio::join!(write, read.read_to_end(&mut back));
        assert_eq!(count.unwrap(), sent.len());
        assert!(back == sent);

        let forward = vm().expose_tcp(0, 7001).unwrap();
        let mut client = tokio::net::TcpStream::connect(forward.local_addr()).await.unwrap();
        client.write_all(b"through").await.unwrap();
        let mut echo = [0; 7];
        client.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"through");
        forward.close().unwrap();

        let datagrams = vm().expose_udp(([127, 0, 0, 1], 0), 7002).await.unwrap();
        let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(b"nobody listens", datagrams.local_addr()).await.unwrap();
        datagrams.check().unwrap();
        datagrams.close().unwrap();

        let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reverse = vm().reverse_tcp(0, host.local_addr().unwrap()).await.unwrap();
        let script = format!("echo from the guest | nc 127.0.0.1 {}", reverse.guest_port());
        let accept = async {
            let (mut stream, _) = host.accept().await.unwrap();
            let mut line = String::new();
            stream.read_to_string(&mut line).await.unwrap();
            line
        };
        let (line, _) = tokio::join!(accept, sh(vm(), &script));
        assert_eq!(line, "from the guest\n");
        let none = vm().connect(0).await;
        assert!(
            matches!(none, Err(Error::Port { source: PortError::Guest { port: 0, .. } })),
            "{none:?}"
        );
    });
}

/// An expanded image: a machine that starts from the pack itself cannot be reset.
fn resettable() -> Image {
    let image = busybox();
    image.mapped().unwrap();
    image
}

#[test]
fn pool_under_load_loses_no_machine_to_dropped_acquires() {
    const MACHINES: usize = 3;
    let image = resettable();
    wait_for(async {
        let builder = image.pool().min(1).max(MACHINES).acquire_timeout(TIMEOUT);
        let pool = Pool::from(builder.build().unwrap());
        let mut tasks = JoinSet::new();
        for task in 0..24_u64 {
            let pool = pool.clone();
            tasks.spawn(async move {
                // Some give up at once, some while a machine starts or resets for them, some just
                // as they get one.
                if task % 3 != 0 {
                    let short = Duration::from_millis(task * task % 97);
                    let Ok(vm) = timeout(short, pool.acquire()).await else { return 0 };
                    drop(vm);
                    return 0;
                }
                let vm = pool.acquire().await.unwrap();
                let script = format!("cat /tmp/mine 2>/dev/null; echo {task} | tee /tmp/mine");
                assert_eq!(sh(&vm, &script).await, format!("{task}\n"));
                1
            });
        }
        let mut served = 0;
        while let Some(done) = tasks.join_next().await {
            served += done.unwrap();
        }
        assert_eq!(served, 8);
        let all = futures_util::future::join_all((0..MACHINES).map(|_| pool.acquire())).await;
        let all: Vec<PooledVm> = all.into_iter().map(Result::unwrap).collect();
        let stats = pool.stats();
        assert_eq!((stats.in_use, stats.waiting, stats.failures), (MACHINES, 0, 0), "{stats:?}");
        assert!(stats.created <= MACHINES as u64, "{stats:?}");
        let mut waiting = Box::pin(pool.acquire());
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        assert_eq!(pool.stats().waiting, 1);
        drop(waiting);
        assert_eq!(pool.stats().waiting, 0);
        drop(all);
    });
}

#[test]
fn acquire_waits_in_order_up_to_its_time_limit() {
    let image = resettable();
    wait_for(async {
        let limit = Duration::from_millis(100);
        let builder = image.pool().max(1).restore_on_release(false).acquire_timeout(limit);
        let blocking = builder.build().unwrap();
        let pool = Pool::from(blocking.clone());
        let vm = pool.acquire().await.unwrap();
        sh(&vm, "echo kept > /tmp/mark").await;
        let none = pool.acquire().await;
        assert!(matches!(none, Err(Error::PoolExhausted { in_use: 1, max: 1, .. })), "{none:?}");
        drop(vm);
        // Blocking and nonblocking callers share one queue.
        assert_eq!(blocking.acquire().unwrap().read_file("/tmp/mark").unwrap(), b"kept\n");
        let vm = pool.acquire().await.unwrap().into_inner();
        assert_eq!(pool.stats().in_use, 0);
        vm.stop().await.unwrap();
        pool.acquire().await.unwrap().discard();
        let of_image = PooledVm::acquire(&image).await.unwrap();
        assert_eq!(
            sh(&of_image, "cat /tmp/mark 2>/dev/null; echo own").await,
            "own
"
        );
    });
}

#[test]
fn snapshot_of_a_running_machine_starts_another() {
    let (_folder, store) = own_store();
    expect_baked(bake("busybox").entrypoint(["sleep", "1000000"]).name("origin").bake(&store));
    let image = store.image("origin").unwrap();
    wait_for(async {
        let vm = Vm::start(&image, &VmConfig::new()).await.unwrap();
        vm.write_file("/tmp/mark", "mine").await.unwrap();
        let snapshotted = vm.snapshot("later").await.unwrap();
        assert_eq!(sh(&vm, "echo lives").await, "lives\n");
        let other = Vm::start(&snapshotted.image, &VmConfig::new()).await.unwrap();
        assert_eq!(other.read_file("/tmp/mark").await.unwrap(), b"mine");
        assert!(matches!(
            vm.snapshot("no/name").await,
            Err(Error::Invalid { source: InvalidInput::SnapshotName { .. } })
        ));
        vm.stop().await.unwrap();
        other.stop().await.unwrap();
    });
}

#[test]
fn running_machine_forks() {
    let image = busybox();
    wait_for(async {
        let vm = Vm::start(&image, &VmConfig::new()).await.unwrap();
        vm.write_file("/tmp/mark", "mine").await.unwrap();
        let forks = vm.fork(2).await.unwrap();
        vm.stop().await.unwrap();
        for fork in &forks {
            assert_eq!(fork.read_file("/tmp/mark").await.unwrap(), b"mine");
            assert_eq!(sh(fork, "echo lives").await, "lives\n");
        }
        assert!(forks[0].fork(0).await.unwrap().is_empty());
        assert!(matches!(
            forks[0].fork_with(1, &VmConfig::new().with_vcpus(7)).await,
            Err(Error::Invalid { source: InvalidInput::Mismatch { .. } })
        ));
    });
}

#[test]
fn guest_panic_fails_every_pending_call_at_once() {
    let image = busybox();
    wait_for(async {
        let vm = Vm::start(&image, &VmConfig::new()).await.unwrap();
        let mut child = vm.exec_builder().argv(["cat"]).spawn().await.unwrap();
        let (mut stdout, mut stdin) = (child.stdout().unwrap(), child.stdin().unwrap());
        let mut file = vm.file_writer("/tmp/x").unwrap();
        file.write_all(b"x").await.unwrap();
        let panic = "echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero";
        let (exec, read, wait, workload) = tokio::join!(
            vm.exec(["sh", "-c", panic]),
            async { stdout.read(&mut [0]).await },
            child.wait(),
            vm.wait(),
        );
        for ended in [exec.map(drop), wait.map(drop), workload.map(drop), file.finish().await] {
            assert!(matches!(ended, Err(Error::Guest { .. })), "{ended:?}");
        }
        let error = read.unwrap_err();
        assert!(error.to_string().contains("guest"), "{error}");
        assert!(stdin.write(b"x").await.is_err());
        assert!(matches!(vm.read_file("/x").await, Err(Error::Guest { .. })));
        assert!(!vm.console().is_empty());
        assert!(matches!(vm.stop().await, Err(Error::Guest { .. })));
    });
}

#[test]
fn dropped_machine_closes_its_streams() {
    let image = busybox();
    wait_for(async {
        let vm = Vm::start(&image, &VmConfig::new()).await.unwrap();
        let mut child = vm.exec_builder().argv(["cat"]).spawn().await.unwrap();
        let mut reader = vm.file_reader("/bin/busybox").unwrap();
        reader.read_exact(&mut [0; 100]).await.unwrap();
        drop(vm);
        assert!(matches!(child.wait().await, Err(Error::Stopped)));
        assert!(reader.read_to_end(&mut Vec::new()).await.is_err());
        child.signal(15).unwrap();
    });
}

#[test]
fn several_threads_of_a_runtime_share_a_machine() {
    let runtime = Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for n in 0..30 {
            tasks.spawn(async move {
                let mut child = spawn("cat; cat >&2 /etc/passwd").await;
                let (mut stdin, mut out) = (child.stdin().unwrap(), child.stdout().unwrap());
                let mut err = child.stderr().unwrap();
                let text = vec![n; 200_000];
                let given = text.clone();
                let write = tokio::spawn(async move { stdin.write_all(&given).await });
                let errors = tokio::spawn(async move { err.read_to_end(&mut Vec::new()).await });
                let mut all = Vec::new();
                out.read_to_end(&mut all).await.unwrap();
                assert!(all == text);
                write.await.unwrap().unwrap();
                assert!(errors.await.unwrap().unwrap() > 0);
                assert!(child.wait().await.unwrap().success());
            });
        }
        while let Some(done) = timeout(TIMEOUT, tasks.join_next()).await.unwrap() {
            done.unwrap();
        }
    });
}

#[test]
fn example_reports_each_script_as_it_finishes() {
    let image = busybox();
    let scripts = vec!["sleep 2; echo late".into(), "echo early".into(), "exit 3".into()];
    let mut finished = Vec::new();
    let report = |script: &std::ffi::OsStr, outcome: Result<supermachine::ExecOutcome, Error>| {
        let outcome = outcome.unwrap();
        finished.push((script.to_owned(), outcome.status.code().unwrap(), outcome.stdout));
    };
    wait_for(async_example::run(&image, scripts, report)).unwrap();
    assert_eq!(finished.len(), 3);
    assert_eq!(finished[2].2, b"late\n");
    assert!(finished.iter().any(|(_, code, _)| *code == 3));
}
