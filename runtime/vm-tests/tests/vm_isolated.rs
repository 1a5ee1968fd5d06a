//! Machines in worker processes: every operation, and the death of either side.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use supermachine::error::{SnapshotError, WorkerError};
use supermachine::{AssetPaths, Error, Image, RestoreMode, Snapshot, Vm, VmConfig, async_};
use supermachine_test_support::machines::{alone, bake, baked, busybox, folder, held, sh, store};

/// Longer than anything takes, even on a slow host.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Where the worker is: cargo puts programs beside the folder of tests.
fn assets() -> AssetPaths {
    let test = std::env::current_exe().unwrap();
    let dir = test.parent().and_then(Path::parent).unwrap();
    let assets = AssetPaths::from_dir(dir);
    assert!(
        assets.worker().is_some(),
        "programs are built with all tests, or by cargo build --bins"
    );
    assets
}

fn isolated() -> VmConfig {
    VmConfig::new().with_isolated(true).with_assets(assets())
}

/// The workers of this process.
fn workers() -> Vec<u32> {
    let own = format!("PPid:\t{}\n", std::process::id());
    let is_worker = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.starts_with("Name:\tsupermachine-wo") && status.contains(&own)
    };
    let entries = fs::read_dir("/proc").unwrap().map(Result::unwrap);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_worker).collect()
}

/// Kills a process, and waits until its last thread has exited. Then its descriptors are closed, though
/// its parent may not have noticed yet.
fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    let end = Instant::now() + TIMEOUT;
    let status = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    while !(status().contains("State:\tZ") && status().contains("Threads:\t1\n")) {
        assert!(Instant::now() < end, "{pid} still runs");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn isolated_machine_supports_every_operation() {
    let _alone = alone();
    let image = busybox();
    let before = held();
    let vm = image.start(&isolated().with_hostname("apart")).unwrap();
    assert_eq!(workers().len(), 1);
    assert_eq!(sh(&vm, "hostname"), "apart\n");
    let mut child = vm.exec_builder().argv(["cat"]).spawn().unwrap();
    child.stdin().unwrap().write_all(b"through").unwrap();
    let mut text = String::new();
    child.stdout().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), child.wait().unwrap().success()), ("through", true));
    drop(child);
    vm.write_file("/tmp/file", vec![7; 3 << 20]).unwrap();
    assert_eq!(vm.read_file("/tmp/file").unwrap(), vec![7; 3 << 20]);
    assert!(vm.stats().unwrap().memory_total_kib > 0);
    assert!(vm.machine().is_err());

    vm.pause().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| sh(&vm, "echo done"));
        // Time to finish, if the machine were not paused.
        thread::sleep(Duration::from_secs(1));
        assert!(!waiting.is_finished());
        vm.resume().unwrap();
        assert_eq!(waiting.join().unwrap(), "done\n");
    });

    sh(&vm, "setsid nc -ll -p 700 -e echo answer < /dev/null > /dev/null 2>&1 &");
    let port = vm.expose_tcp(0, 700).unwrap();
    let end = Instant::now() + TIMEOUT;
    loop {
        // A guest that does not listen yet resets the connection.
        let mut answer = String::new();
        let read = std::net::TcpStream::connect(port.local_addr())
            .and_then(|mut stream| stream.read_to_string(&mut answer));
        if read.is_ok() && answer == "answer\n" {
            break;
        }
        assert!(Instant::now() < end, "{read:?}, {answer:?}");
    }
    let datagrams = vm.expose_udp(([127, 0, 0, 1], 0), 700).unwrap();
    datagrams.check().unwrap();
    vm.stop().unwrap();
    drop((port, datagrams));
    assert_eq!(workers(), [0; 0]);
    let end = Instant::now() + TIMEOUT;
    while held() != before {
        assert!(Instant::now() < end, "{:?}, before {before:?}", held());
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn worker_inherits_nothing_from_the_application() {
    let _alone = alone();
    let vm = busybox().start(&isolated()).unwrap();
    let [pid] = workers()[..] else { panic!("{:?}", workers()) };
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    // A file that every child process inherits.
    let secret = folder().join("secret");
    fs::write(&secret, "x").unwrap();
    let file = fs::File::open(&secret).unwrap();
    // SAFETY: the descriptor is open, and only this flag of it changes.
    assert_eq!(unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&file), libc::F_SETFD, 0) }, 0);
    let other = busybox().start(&isolated()).unwrap();
    let pid = workers().into_iter().find(|found| *found != pid).unwrap();
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(Result::unwrap);
    let open: Vec<PathBuf> = files.filter_map(|file| fs::read_link(file.path()).ok()).collect();
    assert!(!open.contains(&secret), "{open:?}");
    assert_eq!(sh(&other, "echo well") + &sh(&vm, "echo well"), "well\nwell\n");
}

#[test]
fn killed_worker_fails_the_calls_on_its_machine() {
    let _alone = alone();
    let vm = busybox().start(&isolated()).unwrap();
    let child = vm.exec_builder().argv(["sleep", "1000"]).spawn().unwrap();
    let [pid] = workers()[..] else { panic!("{:?}", workers()) };
    kill(pid);
    assert!(matches!(child.wait_with_output(), Err(Error::Worker { source: WorkerError::Gone })));
    assert!(matches!(vm.exec(["true"]), Err(Error::Worker { source: WorkerError::Gone })));
    assert!(matches!(vm.pause(), Err(Error::Worker { source: WorkerError::Gone })));
    assert!(matches!(vm.stop(), Err(Error::Worker { source: WorkerError::Gone })));
    assert_eq!(workers(), [0; 0]);
}

#[test]
fn dropped_machine_stops_at_once_with_calls_pending() {
    let _alone = alone();
    let vm = busybox().start(&isolated()).unwrap();
    let mut child = vm.exec_builder().argv(["sleep", "1000"]).spawn().unwrap();
    vm.pause().unwrap();
    let begin = Instant::now();
    drop(vm);
    assert!(matches!(child.wait(), Err(Error::Stopped)));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(workers(), [0; 0]);
}

#[test]
fn guest_panic_is_reported_with_its_console() {
    let _alone = alone();
    let vm = busybox().start(&isolated()).unwrap();
    let panic = "echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero";
    for result in [vm.exec(["sh", "-c", panic]).map(drop), vm.pause(), vm.stop()] {
        let Err(Error::Guest { console, .. }) = &result else { panic!("{result:?}") };
        assert!(console.contains("panic"), "{console}");
    }
}

#[test]
fn snapshot_of_an_isolated_machine_starts_in_this_process() {
    let _alone = alone();
    let vm = busybox().start(&isolated()).unwrap();
    sh(&vm, "echo mark > /tmp/mark");
    let taken = vm.snapshot("apart").unwrap();
    let other = taken.image.start(&VmConfig::new()).unwrap();
    assert_eq!(sh(&other, "cat /tmp/mark"), "mark\n");
    assert_eq!(sh(&vm, "cat /tmp/mark"), "mark\n");
}

#[test]
fn isolated_machine_forks_into_workers_and_into_this_process() {
    let _alone = alone();
    let vm = busybox().start(&isolated()).unwrap();
    sh(&vm, "echo apart > /tmp/mark");
    let mut forks = vm.fork_with(2, &isolated()).unwrap();
    assert_eq!(workers().len(), 3);
    forks.extend(vm.fork(1).unwrap());
    drop(vm);
    for fork in &forks {
        assert_eq!(sh(fork, "cat /tmp/mark"), "apart\n");
    }
    assert_eq!(sh(&forks[0].fork(1).unwrap()[0], "cat /tmp/mark"), "apart\n");
}

#[test]
fn worker_that_can_open_no_file_starts_runs_and_captures() {
    let _alone = alone();
    let dir = tempfile::tempdir_in(folder()).unwrap();
    let program = dir.path().join("supermachine-worker");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_locked-worker"), program).unwrap();
    let locked = isolated().with_assets(AssetPaths::from_dir(dir.path()));
    let image = busybox();
    image.mapped().unwrap();
    let cache = dir.path().join("cache");
    let cold = Image::open(image.source().clone(), image.digest(), &cache).unwrap();
    for (image, mode) in [(cold, RestoreMode::OnDemand), (image, RestoreMode::Mapped)] {
        let vm = image.start(&locked).unwrap();
        assert_eq!(vm.timings().restore_mode(), mode);
        let [pid] = workers()[..] else { panic!("{:?}", workers()) };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Seccomp:\t2\n"), "{status}");
        sh(
            &vm,
            "dd if=/dev/urandom of=/dev/shm/x bs=1M count=8 2>&1; md5sum < /dev/shm/x > /tmp/sum",
        );
        let taken = vm.snapshot("locked").unwrap();
        assert_eq!(sh(&vm, "echo after > /tmp/mark; cat /tmp/mark"), "after\n");
        let again = taken.image.start(&locked).unwrap();
        let script = "md5sum < /dev/shm/x | cmp - /tmp/sum && ! [ -e /tmp/mark ] && echo same";
        assert_eq!(sh(&again, script), "same\n");
    }
    assert_eq!(workers(), [0; 0]);
}

#[test]
fn on_demand_start_in_a_worker_makes_the_mapped_form() {
    let _alone = alone();
    let image = busybox();
    let cache = tempfile::tempdir_in(folder()).unwrap();
    let cold = Image::open(image.source().clone(), image.digest(), cache.path()).unwrap();
    let vm = cold.start(&isolated()).unwrap();
    assert_eq!(vm.timings().restore_mode(), RestoreMode::OnDemand);
    assert_eq!(sh(&vm, "echo well"), "well\n");
    let end = Instant::now() + TIMEOUT;
    // The form's list of files is written last.
    let form = cache.path().join("snapshots").join(image.digest().hex()).join("form");
    while !form.exists() {
        assert!(Instant::now() < end, "the form is not made");
        thread::sleep(Duration::from_millis(10));
    }
    let second = cold.start(&isolated()).unwrap();
    assert_eq!(second.timings().restore_mode(), RestoreMode::Mapped);
}

#[test]
fn pool_resets_used_machines_in_their_workers() {
    let _alone = alone();
    let pool = busybox().pool().config(&isolated()).min(1).max(1).build().unwrap();
    let mut former = None;
    for _ in 0..5 {
        let vm = pool.acquire().unwrap();
        assert_eq!(sh(&vm, "cat /tmp/used 2> /dev/null || echo fresh"), "fresh\n");
        sh(&vm, "echo used > /tmp/used");
        let mut command = vm.exec_builder().argv(["sleep", "1000"]).spawn().unwrap();
        let worker = workers();
        assert_eq!(worker.len(), 1);
        assert_eq!(*former.get_or_insert(worker.clone()), worker);
        drop(vm);
        // The former user's handles do not reach the next one's machine.
        let error = command.wait().unwrap_err();
        assert!(matches!(error, Error::Stopped), "{error:?}");
    }
    let end = Instant::now() + TIMEOUT;
    while pool.stats().idle != 1 {
        assert!(Instant::now() < end, "{:?}", pool.stats());
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(pool.stats().reset, 5);
    // A machine that dies while idle is not leased.
    workers().into_iter().for_each(kill);
    let vm = pool.acquire().unwrap();
    assert_eq!(sh(&vm, "echo well"), "well\n");
}

#[test]
fn embedded_snapshot_is_expanded_for_the_worker() {
    let _alone = alone();
    let file = folder().join("embedded.tar");
    let describe = || bake("busybox").env("IS", "embedded").entrypoint(["sleep", "1000000"]);
    let _ = baked("embedded", describe);
    store().export("embedded", &file).unwrap();
    let pack = Box::leak(fs::read(&file).unwrap().into_boxed_slice());
    let embedded = Image::from_embedded(Snapshot::new("embedded", pack)).unwrap();
    let vm = embedded.start(&isolated()).unwrap();
    assert_eq!(sh(&vm, "echo $IS"), "embedded\n");
    assert_eq!(vm.timings().restore_mode(), RestoreMode::Mapped);
    let error = vm.snapshot("nowhere").unwrap_err();
    assert!(
        matches!(error, Error::Snapshot { source: SnapshotError::NotAStore { .. } }),
        "{error:?}"
    );
}

#[test]
fn eight_isolated_machines_start_and_answer_at_once() {
    let _alone = alone();
    let image = Arc::new(busybox());
    thread::scope(|scope| {
        for n in 0..8 {
            let image = Arc::clone(&image);
            scope.spawn(move || {
                let vm = image.start(&isolated()).unwrap();
                assert_eq!(sh(&vm, &format!("echo {n}")), format!("{n}\n"));
                vm.stop().unwrap();
            });
        }
    });
    assert_eq!(workers(), [0; 0]);
}

#[test]
fn isolated_machine_has_a_nonblocking_api() {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let vm = async_::Vm::start(&busybox(), &isolated()).await.unwrap();
        assert_eq!(vm.exec(["echo", "hello"]).await.unwrap().stdout, b"hello\n");
        vm.stop().await.unwrap();
    });
    assert_eq!(workers(), [0; 0]);
}

#[test]
fn missing_or_broken_worker_is_reported() {
    let _alone = alone();
    let start = |dir: &Path| {
        let assets = AssetPaths::from_dir(dir);
        Vm::start(&busybox(), &VmConfig::new().with_isolated(true).with_assets(assets))
    };
    let dir = tempfile::tempdir_in(folder()).unwrap();
    let error = start(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::Worker { source: WorkerError::NoProgram { .. } }), "{error:?}");
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    let program = dir.path().join("supermachine-worker");
    fs::write(&program, "").unwrap();
    let error = start(dir.path()).unwrap_err();
    assert!(
        matches!(&error, Error::Worker { source: WorkerError::NotStarted { path, .. } } if *path == program),
        "{error:?}"
    );
    // Another program, which sends nothing.
    fs::remove_file(&program).unwrap();
    std::os::unix::fs::symlink("/bin/true", &program).unwrap();
    assert!(matches!(start(dir.path()), Err(Error::Worker { source: WorkerError::Gone })));
    // Started by hand, it says what it is for.
    let worker = assets().worker().unwrap();
    let output = Command::new(worker).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && text.contains("holds a machine"), "{output:?}");
}
