//! Failures: each gives a specific error, and leaves nothing incomplete.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use supermachine::{Error, ExecOutcome, Image, RestoreMode, VmConfig};
use supermachine_baker::{BakeError, OciImageBuilder, Ready, Store, WorkloadError};
use supermachine_formats::Digest;
use supermachine_formats::snapshot::Architecture;
use supermachine_formats::snapshot::arch::ArchState;
use supermachine_formats::wire::Failure;
use supermachine_snapshots::pack::{Layout, Manifest, Pack};
use supermachine_test_support::machines::{
    self, bake, baked, busybox, causes, expect_baked, own_store, sh, start, store,
};
use supermachine_test_support::packs;
use supermachine_vmm::MachineError;

/// A bake of busybox that runs a script.
fn script(text: &str) -> OciImageBuilder {
    bake("busybox").entrypoint(["sh", "-c", text])
}

/// Runs a bake that must fail. Asserts that the store does not have its name, and returns the error.
fn refused(name: &str, builder: OciImageBuilder) -> BakeError {
    let error = builder.name(name).bake(store()).unwrap_err();
    assert!(!store().names().unwrap().iter().any(|known| known == name));
    assert_eq!(leftovers(store()), Vec::<PathBuf>::new());
    error
}

/// Temporary files of a store.
fn leftovers(store: &Store) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.dir().join("tmp")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn missing_entrypoint_is_named() {
    let error = refused("missing", bake("busybox").entrypoint(["/no/such", "x"]));
    let BakeError::Workload(WorkloadError::EntrypointMissing { failure }) = &error else {
        panic!("{error:?}")
    };
    let Failure { operation, subject, errno, .. } = failure;
    assert_eq!((operation.as_str(), &subject[..], *errno), ("execve", "/no/such", 2));
    assert!(error.to_string().contains("/no/such"), "{error}");
}

#[test]
fn unknown_user_of_the_entrypoint_is_named() {
    let error = refused("stranger", script("true").user("stranger"));
    assert!(
        matches!(error, BakeError::Workload(WorkloadError::EntrypointMissing { .. })),
        "{error:?}"
    );
    assert!(error.to_string().contains("stranger"), "{error}");
}

#[test]
fn failed_entrypoint_is_reported_with_its_output() {
    for ready in [Ready::Auto, Ready::Tcp(80), Ready::Exit] {
        let builder = script("echo out; echo oh dear >&2; exit 3").ready(ready);
        let error = refused("fails", builder);
        let BakeError::Workload(WorkloadError::EntrypointEnded { status, last_output, .. }) =
            &error
        else {
            panic!("{error:?}")
        };
        assert_eq!(status, "exit code 3");
        assert_eq!(last_output.output, "out\noh dear\n");
        assert!(error.to_string().contains("oh dear"), "{error}");
    }
}

#[test]
fn killed_entrypoint_is_reported_with_its_signal() {
    let error = refused("killed", script("kill -9 $$"));
    let BakeError::Workload(WorkloadError::EntrypointEnded { status, .. }) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(status, "signal 9");
}

#[test]
fn entrypoint_that_exits_is_not_ready_for_a_port() {
    let error = refused("ended", script("echo done").ready(Ready::Tcp(80)));
    let BakeError::Workload(WorkloadError::EntrypointEnded { status, ready, .. }) = &error else {
        panic!("{error:?}")
    };
    assert_eq!((&status[..], &ready.to_string()[..]), ("exit code 0", "tcp:80"));
}

#[test]
fn readiness_timeout_is_reported_with_the_output() {
    let sleeping = || script("echo still at it; sleep 1000").ready_timeout(Duration::from_secs(3));
    for ready in ["tcp:80", "log:never", "exec:false", "exec:sleep 1000", "exit"] {
        let begin = Instant::now();
        let error = refused("slow", sleeping().ready(ready.parse().unwrap()));
        let BakeError::Workload(WorkloadError::NotReady { limit, last_output, .. }) = &error else {
            panic!("{ready}: {error:?}")
        };
        assert_eq!(*limit, Duration::from_secs(3));
        assert_eq!(last_output.output, "still at it\n");
        let text = error.to_string();
        assert!(text.contains("still at it") && text.contains(ready), "{text}");
        assert!(begin.elapsed() < Duration::from_secs(60), "{ready}: {:?}", begin.elapsed());
    }
}

#[test]
fn missing_readiness_command_is_named() {
    let error = refused("no-probe", script("sleep 1000").ready("exec:no-such x".parse().unwrap()));
    assert!(causes(&error).contains("no-such"), "{}", causes(&error));
}

#[test]
fn matching_log_line_makes_a_machine_ready() {
    let text = "sleep 0.5; echo starting; echo 'up in 12 ms'; sleep 0.5; touch /late; sleep 1000";
    let image = baked("log", || script(text).ready("log:up in [0-9]+ ms".parse().unwrap()));
    let vm = start(&image);
    assert_eq!(
        sh(
            &vm,
            "i=0; while [ ! -e /late ] && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done; ls /late"
        ),
        "/late\n"
    );
}

#[test]
fn successful_command_makes_a_machine_ready() {
    let text = "sleep 1; touch /tmp/ready; sleep 1000";
    let ready = "exec:test -e /tmp/ready".parse().unwrap();
    let vm = start(&baked("exec", || script(text).ready(ready)));
    assert_eq!(sh(&vm, "ls /tmp"), "ready\n");
}

#[test]
fn entrypoint_that_has_exited_leaves_its_files() {
    let image = baked("exit", || script("echo made > /made").ready(Ready::Exit));
    assert_eq!(sh(&start(&image), "cat /made"), "made\n");
}

/// A copy of a snapshot's files, to damage and repair.
struct Victim {
    dir: tempfile::TempDir,
    layout: Layout,
    pack: Arc<Pack>,
}

impl Victim {
    fn new() -> Self {
        let image = busybox();
        let dir = tempfile::tempdir_in(machines::folder()).unwrap();
        let root = dir.path().join("store");
        let status = Command::new("cp").arg("-r").arg(store().dir()).arg(&root).status().unwrap();
        assert!(status.success());
        Self { dir, layout: Layout::open(root).unwrap(), pack: Arc::clone(image.pack().unwrap()) }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn open(&self) -> Result<Image, Error> {
        Image::open(self.layout.source()?, self.pack.digest, &self.cache())
    }

    /// Starts a machine with an empty cache, and runs a command.
    fn run(&self, config: &VmConfig) -> Result<ExecOutcome, Error> {
        let _ = fs::remove_dir_all(self.cache());
        self.open()?.start(config)?.exec(["echo", "well"])
    }

    fn assert_well(&self, config: &VmConfig) {
        let outcome = self.run(config).unwrap_or_else(|error| panic!("{}", causes(&error)));
        assert_eq!(machines::succeeded(&outcome, "echo"), "well\n");
    }

    /// Runs with a changed blob, then restores it. Returns the result of each restore mode.
    fn run_with(
        &self,
        blob: Digest,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> [Result<ExecOutcome, Error>; 2] {
        let path = self.layout.blob_path(blob);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        change(&mut bad);
        fs::write(&path, &bad).unwrap();
        let configs = [VmConfig::new(), VmConfig::new().with_expand_first(true)];
        let results = configs.map(|config| self.run(&config));
        fs::write(&path, &good).unwrap();
        results
    }

    /// Tries to start a machine of the snapshot with this state of its processors.
    fn refuse_with(&self, arch: ArchState) -> MachineError {
        let mut snapshot = self.pack.snapshot.clone();
        snapshot.machine.vcpus = 1;
        snapshot.arch = arch;
        let state = self.layout.put(&snapshot.encode()).unwrap();
        let manifest = Manifest { state, ..self.pack.manifest.clone() };
        let digest = self.layout.put(&manifest.encode()).unwrap().digest;
        let opened = Image::open(self.layout.source().unwrap(), digest, &self.cache());
        match opened.and_then(|image| image.start(&VmConfig::new())) {
            Err(Error::Machine { source }) => source,
            other => panic!("{other:?}"),
        }
    }

    /// Like `run_with`, where both modes must fail. Returns their errors.
    fn fail_with(&self, blob: Digest, change: impl FnOnce(&mut Vec<u8>)) -> [String; 2] {
        self.run_with(blob, change).map(|result| causes(&result.unwrap_err()))
    }
}

#[test]
fn damage_in_each_part_of_a_pack_is_named_before_the_guest_runs() {
    let victim = Victim::new();
    let Manifest { config, state, index, .. } = &victim.pack.manifest;
    let parts = [
        ("manifest", victim.pack.digest),
        ("config", config.digest),
        ("state", state.digest),
        ("index", index.digest),
    ];
    for (section, blob) in parts {
        let size = fs::metadata(victim.layout.blob_path(blob)).unwrap().len() as usize;
        for at in [0, size / 3, size - 1] {
            for text in victim.fail_with(blob, |bytes| bytes[at] ^= 0x40) {
                assert!(text.contains(&format!("{section} is damaged")), "{section} {at}: {text}");
            }
        }
        for length in [0, size / 2, size - 1] {
            for text in victim.fail_with(blob, |bytes| bytes.truncate(length)) {
                assert!(text.contains(section), "{section} {length}: {text}");
            }
        }
        let (path, away) = (victim.layout.blob_path(blob), victim.dir.path().join("away"));
        fs::rename(&path, &away).unwrap();
        let text = causes(&victim.run(&VmConfig::new()).unwrap_err());
        assert!(text.contains(&format!("{section} is missing")), "{text}");
        fs::rename(&away, &path).unwrap();
    }
    victim.assert_well(&VmConfig::new());
    victim.assert_well(&VmConfig::new().with_expand_first(true));
}

#[test]
fn damaged_chunks_are_named_and_stop_the_guest() {
    let victim = Victim::new();
    let mut lost = 0;
    for blob in &victim.pack.index.blobs {
        // Damages every chunk, since a start on demand reads only some.
        let mut ends = Vec::new();
        let mut end = 0;
        for chunk in &blob.chunks {
            end += chunk.stored as usize;
            ends.push(end);
        }
        let [on_demand, expanded] = victim.run_with(blob.digest, |bytes| {
            for end in &ends {
                bytes[*end - 1] ^= 0x10;
            }
        });
        let expanded = causes(&expanded.unwrap_err());
        assert!(expanded.contains("chunks are damaged"), "{expanded}");
        assert!(expanded.contains(&blob.digest.to_string()), "{expanded}");
        match on_demand {
            // The start read nothing from this blob.
            Ok(outcome) => assert_eq!(machines::succeeded(&outcome, "echo"), "well\n"),
            Err(error) => {
                lost += 1;
                let error = causes(&error);
                assert!(error.contains("chunks are damaged"), "{error}");
            }
        }
        for text in victim.fail_with(blob.digest, |bytes| bytes.truncate(bytes.len() / 2)) {
            assert!(text.contains("chunks has") && text.contains(&blob.digest.hex()), "{text}");
        }
        // Most chunks are the parent's.
        let path = victim.layout.blob_path(blob.digest);
        let good = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let text = causes(&victim.run(&VmConfig::new()).unwrap_err());
        assert!(text.contains("chunks is missing"), "{text}");
        fs::write(&path, good).unwrap();
    }
    assert!(lost > 0, "no start on demand read a damaged chunk");
    victim.assert_well(&VmConfig::new());
}

#[test]
fn damaged_names_are_reported() {
    let victim = Victim::new();
    let path = victim.layout.dir().join("index.json");
    let store = || Store::open_with_cache(victim.layout.dir(), victim.cache()).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    for text in ["", "no JSON", "{}", r#"{"manifests":[{}]}"#, "\0\u{ff}"] {
        fs::write(&path, text).unwrap();
        let error = causes(&store().image("busybox").unwrap_err());
        assert!(error.contains("index.json"), "{text:?}: {error}");
        let error = Image::from_store(victim.layout.dir(), "busybox").unwrap_err();
        assert!(causes(&error).contains("index.json"), "{text:?}: {error:?}");
    }
    let gone = good.replace(&victim.pack.digest.hex(), &Digest::of(b"gone").hex());
    fs::write(&path, gone).unwrap();
    let error = causes(&store().image("busybox").unwrap_err());
    assert!(error.contains("manifest is missing"), "{error}");
    fs::write(&path, good).unwrap();
    store().image("busybox").unwrap();
    let error = Image::from_store(victim.layout.dir(), "none").unwrap_err();
    assert!(causes(&error).contains("no snapshot none in "), "{error:?}");
    let error = Image::from_snapshot(victim.dir.path().join("none")).unwrap_err();
    assert!(causes(&error).contains("no snapshot at "), "{error:?}");
}

#[test]
fn damaged_mapped_form_is_made_again() {
    let victim = Victim::new();
    let well = || {
        let image = victim.open().unwrap();
        let vm = image.start(&VmConfig::new().with_expand_first(true)).unwrap();
        let mode = vm.timings().restore_mode();
        assert_eq!(sh(&vm, "echo well"), "well\n");
        mode
    };
    assert_eq!(well(), RestoreMode::Expanded);
    assert_eq!(well(), RestoreMode::Mapped);
    let form = victim.cache().join("snapshots").join(victim.pack.digest.hex());
    let mut files = vec![form.join("form"), form.join("state")];
    for folder in ["memory", "overlays", "disks"] {
        let entries = fs::read_dir(victim.cache().join(folder)).unwrap();
        let all = entries.map(|entry| entry.unwrap().path());
        files.extend(all.filter(|path| path.extension().is_none()));
    }
    assert_eq!(files.len(), 5, "{files:?}");
    for (number, file) in files.iter().enumerate() {
        match number % 3 {
            0 => fs::remove_file(file).unwrap(),
            1 => fs::write(file, b"not what it was").unwrap(),
            _ => {
                let file = fs::File::options().write(true).open(file).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            }
        }
        assert_eq!(well(), RestoreMode::Expanded, "{file:?}");
        assert_eq!(well(), RestoreMode::Mapped, "{file:?}");
    }
    fs::remove_dir_all(victim.cache()).unwrap();
    assert_eq!(well(), RestoreMode::Expanded);
}

#[test]
fn snapshot_of_another_architecture_is_refused() {
    let victim = Victim::new();
    let own = victim.pack.snapshot.arch.architecture();
    let arch = match own {
        Architecture::X86_64 => packs::aarch64_state(),
        Architecture::Aarch64 => packs::x86_64_state(),
    };
    let other = arch.architecture();
    let error = victim.refuse_with(arch);
    let MachineError::Architecture { found, host } = &error else { panic!("{error:?}") };
    assert_eq!((*found, *host), (other, own));
}

#[test]
fn snapshot_that_needs_another_processor_or_counter_is_refused_by_name() {
    let victim = Victim::new();
    let mut arch = victim.pack.snapshot.arch.clone();
    let expected = match &mut arch {
        ArchState::X86_64(state) => {
            state.processor.features.iter_mut().for_each(|word| word.mask = u32::MAX);
            "this host's processor lacks ".to_owned()
        }
        ArchState::Aarch64(state) => {
            let host = state.counter.frequency_hz;
            state.counter.frequency_hz += 1;
            let found = state.counter.frequency_hz;
            format!("snapshot's counter runs at {found} Hz, this host's at {host} Hz; bake ")
        }
    };
    let error = victim.refuse_with(arch).to_string();
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn concurrent_bakes_of_one_name_both_succeed() {
    let (_dir, store) = own_store();
    let bakes: Vec<_> = thread::scope(|scope| {
        let both = [0, 1].map(|_| {
            scope.spawn(|| {
                expect_baked(bake("busybox").entrypoint(["sleep", "9"]).name("x").bake(&store))
            })
        });
        both.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(bakes[0].digest, bakes[1].digest);
    assert_eq!(store.digest("x").unwrap(), bakes[0].digest);
    assert_eq!(store.names().unwrap(), ["x"]);
    assert_eq!(bakes.iter().filter(|baked| baked.was_cached).count(), 1);
    assert_eq!(sh(&start(&store.image("x").unwrap()), "echo well"), "well\n");
}

/// A small file system. Mounting needs root.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new() -> Self {
        let path = tempfile::tempdir_in(machines::folder()).unwrap().keep();
        let disk = Self(path);
        disk.mount("size=1m", &["-t", "tmpfs", "tmpfs"]);
        disk
    }

    fn resize(&self, mib: u32) {
        self.mount(&format!("remount,size={mib}m"), &[]);
    }

    fn mount(&self, options: &str, kind: &[&str]) {
        let mut command = as_root("mount");
        let status = command.arg("-o").arg(options).args(kind).arg(&self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = as_root("umount").arg("-l").arg(&self.0).status();
    }
}

fn as_root(program: &str) -> Command {
    // SAFETY: getuid has no precondition and cannot fail.
    if unsafe { libc::getuid() } == 0 {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", program]);
    sudo
}

/// Bakes on a disk of each size, which must fail without space, and then on a large one.
fn bake_on_small_disk(sizes: &[u32], open: impl Fn(&Path) -> Store) {
    let disk = SmallDisk::new();
    let try_bake = |store: &Store| bake("busybox").entrypoint(["sleep", "9"]).name("x").bake(store);
    for size in sizes {
        disk.resize(*size);
        let store = open(&disk.0);
        let text = causes(&try_bake(&store).unwrap_err());
        assert!(text.contains("No space left on device"), "{size} MiB: {text}");
        assert!(text.contains(disk.0.to_str().unwrap()), "{size} MiB: {text}");
        assert_eq!(store.names().unwrap(), Vec::<String>::new());
        assert_eq!(leftovers(&store), Vec::<PathBuf>::new(), "{size} MiB");
    }
    disk.resize(1024);
    expect_baked(try_bake(&open(&disk.0)));
    assert_eq!(sh(&start(&open(&disk.0).image("x").unwrap()), "echo well"), "well\n");
}

#[test]
fn full_store_is_reported_and_leaves_nothing_incomplete() {
    let cache = tempfile::tempdir_in(machines::folder()).unwrap();
    bake_on_small_disk(&[1, 6, 12], |disk| {
        Store::open_with_cache(disk.join("store"), cache.path()).unwrap()
    });
}

#[test]
fn full_cache_is_reported_and_leaves_nothing_incomplete() {
    let store = tempfile::tempdir_in(machines::folder()).unwrap();
    bake_on_small_disk(&[1, 10], |disk| {
        Store::open_with_cache(store.path().join("store"), disk.join("cache")).unwrap()
    });
}

/// This test runs itself again as the process that bakes.
#[test]
fn killed_bake_leaves_a_working_store() {
    const WITHIN: &str = "SUPERMACHINE_TEST_KILLED_STORE";
    let bake = || bake("busybox").entrypoint(["sleep", "9"]).name("x");
    let open = |dir: &Path| Store::open_with_cache(dir.join("store"), dir.join("cache")).unwrap();
    if let Some(dir) = std::env::var_os(WITHIN) {
        expect_baked(bake().bake(&open(Path::new(&dir))));
        return;
    }
    let (dir, _) = own_store();
    for millis in [300, 900, 1700, 2600, 3700, 5000] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed_bake_leaves_a_working_store", "--nocapture"])
            .env(WITHIN, dir.path())
            .spawn()
            .unwrap();
        // The moment of the kill is what varies.
        thread::sleep(Duration::from_millis(millis));
        let finished = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(dir.path());
        for name in store.names().unwrap() {
            // A name exists only with everything it refers to.
            assert_eq!(sh(&start(&store.image(&name).unwrap()), "echo well"), "well\n");
        }
        if finished {
            break;
        }
    }
    let store = open(dir.path());
    expect_baked(bake().bake(&store));
    assert_eq!(sh(&start(&store.image("x").unwrap()), "echo well"), "well\n");
}

#[test]
fn guest_panic_fails_the_waiting_command() {
    let vm = start(&busybox());
    let begin = Instant::now();
    let command = "echo 2 > /proc/sys/vm/panic_on_oom; echo begun; tail /dev/zero";
    let error = vm.exec(["sh", "-c", command]).unwrap_err();
    let Error::Guest { console, .. } = &error else { panic!("{error:?}") };
    assert!(console.contains("panic"), "{console}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    // From now on every command fails at once.
    let begin = Instant::now();
    let again = vm.exec(["true"]).unwrap_err();
    assert!(matches!(again, Error::Guest { .. }), "{again:?}");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(matches!(vm.stop(), Err(Error::Guest { .. })));
}

#[test]
fn workload_cannot_halt_the_guest() {
    let vm = start(&busybox());
    for program in ["reboot", "poweroff", "halt"] {
        let outcome = vm
            .exec_builder()
            .argv([program, "-f"])
            .timeout(Duration::from_secs(10))
            .output()
            .unwrap();
        assert!(!outcome.success() && !outcome.timed_out, "{program}: {outcome:?}");
        assert_eq!(sh(&vm, "echo well"), "well\n");
    }
    // Signals that would kill any other process.
    sh(&vm, "kill -9 1; kill -TERM 1; kill -SEGV 1; true");
    assert_eq!(sh(&vm, "echo well"), "well\n");
    vm.stop().unwrap();
}

#[test]
fn only_the_process_that_uses_all_memory_is_killed() {
    let vm = start(&busybox());
    let outcome = vm.exec(["tail", "/dev/zero"]).unwrap();
    assert_eq!(outcome.status.signal(), Some(9), "{outcome:?}");
    assert!(!outcome.timed_out);
    assert!(outcome.peak_rss_kib > 64 << 10, "{} KiB", outcome.peak_rss_kib);
    // Files use memory too, up to a limit.
    let outcome = vm.exec(["dd", "if=/dev/zero", "of=/tmp/full", "bs=1M"]).unwrap();
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert_eq!(sh(&vm, "rm /tmp/full; echo well"), "well\n");
    vm.stop().unwrap();
}
