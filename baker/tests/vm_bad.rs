//! What goes wrong ends in an error that says what, and leaves nothing half-made behind.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use supermachine::image::Blobs;
use supermachine::machine::MachineError;
use supermachine::{Error, Image, VmConfig};
use supermachine_baker::{BakeError, OciImageBuilder, Ready, Store};
use supermachine_formats::Digest;
use supermachine_formats::snapshot::{Architecture, Snapshot, SnapshotError};
use supermachine_formats::wire::Failure;
use support::{bake, baked, busybox, causes, own_store, sh, start, store, told};

/// A bake of busybox that runs a script.
fn script(text: &str) -> OciImageBuilder {
    bake("busybox").entrypoint(["sh", "-c", text])
}

/// A bake that must fail: its error, and nothing in the store under its name.
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
fn entrypoint_that_does_not_exist_is_named() {
    let error = refused("missing", bake("busybox").entrypoint(["/no/such", "x"]));
    let BakeError::EntrypointMissing { failure } = &error else { panic!("{error:?}") };
    let Failure { operation, subject, errno, .. } = failure;
    assert_eq!((&operation[..], &subject[..], *errno), ("execve", "/no/such", 2));
    assert!(error.to_string().contains("/no/such"), "{error}");
}

#[test]
fn user_of_the_entrypoint_that_does_not_exist_is_named() {
    let error = refused("stranger", script("true").user("stranger"));
    assert!(matches!(error, BakeError::EntrypointMissing { .. }), "{error:?}");
    assert!(error.to_string().contains("stranger"), "{error}");
}

#[test]
fn entrypoint_that_fails_at_once_is_told_with_its_last_words() {
    for ready in [Ready::Auto, Ready::Tcp(80), Ready::Exit] {
        let builder = script("echo out; echo oh dear >&2; exit 3").ready(ready);
        let error = refused("fails", builder);
        let BakeError::EntrypointEnded { status, last_words, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(status, "exit code 3");
        assert_eq!(last_words.output, "out\noh dear\n");
        assert!(error.to_string().contains("oh dear"), "{error}");
    }
}

#[test]
fn entrypoint_that_is_killed_is_told_with_its_signal() {
    let error = refused("killed", script("kill -9 $$"));
    let BakeError::EntrypointEnded { status, .. } = &error else { panic!("{error:?}") };
    assert_eq!(status, "signal 9");
}

#[test]
fn entrypoint_that_ends_well_is_not_ready_for_a_port() {
    let error = refused("ended", script("echo done").ready(Ready::Tcp(80)));
    let BakeError::EntrypointEnded { status, ready, .. } = &error else { panic!("{error:?}") };
    assert_eq!((&status[..], &ready.to_string()[..]), ("exit code 0", "tcp:80"));
}

#[test]
fn machine_that_is_not_ready_in_time_is_given_up_with_its_last_words() {
    let sleeping = || script("echo still at it; sleep 1000").ready_timeout(Duration::from_secs(3));
    for ready in ["tcp:80", "log:never", "exec:false", "exec:sleep 1000", "exit"] {
        let begin = Instant::now();
        let error = refused("slow", sleeping().ready(ready.parse().unwrap()));
        let BakeError::NotReady { limit, last_words, .. } = &error else {
            panic!("{ready}: {error:?}")
        };
        assert_eq!(*limit, Duration::from_secs(3));
        assert_eq!(last_words.output, "still at it\n");
        let text = error.to_string();
        assert!(text.contains("still at it") && text.contains(ready), "{text}");
        assert!(begin.elapsed() < Duration::from_secs(60), "{ready}: {:?}", begin.elapsed());
    }
}

#[test]
fn command_that_asks_for_readiness_must_exist() {
    let error = refused("no-probe", script("sleep 1000").ready("exec:no-such x".parse().unwrap()));
    assert!(causes(&error).contains("no-such"), "{}", causes(&error));
}

#[test]
fn log_line_makes_a_machine_ready() {
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
fn command_that_succeeds_makes_a_machine_ready() {
    let text = "sleep 1; touch /tmp/ready; sleep 1000";
    let ready = "exec:test -e /tmp/ready".parse().unwrap();
    let vm = start(&baked("exec", || script(text).ready(ready)));
    assert_eq!(sh(&vm, "ls /tmp"), "ready\n");
}

#[test]
fn entrypoint_that_ends_by_itself_leaves_its_work() {
    let image = baked("exit", || script("echo made > /made").ready(Ready::Exit));
    assert_eq!(sh(&start(&image), "cat /made"), "made\n");
}

/// The files of one snapshot, to be damaged and mended.
struct Victim {
    _dir: tempfile::TempDir,
    root: PathBuf,
    digest: Digest,
    snapshot: Snapshot,
}

impl Victim {
    fn new() -> Self {
        let image = busybox();
        let dir = tempfile::tempdir_in(support::folder()).unwrap();
        let root = dir.path().join("store");
        let status = Command::new("cp").arg("-r").arg(store().dir()).arg(&root).status().unwrap();
        assert!(status.success());
        Self { _dir: dir, root, digest: image.digest(), snapshot: image.snapshot().clone() }
    }

    fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    fn blob(&self, digest: Digest) -> PathBuf {
        Blobs::new(&self.root).path(&digest)
    }

    fn open(&self) -> Result<Image, Error> {
        Image::open(&Blobs::new(&self.root), self.digest, &self.cache())
    }

    /// Opens with a file changed, and changes it back.
    fn open_with(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Error {
        let good = fs::read(path).unwrap();
        let mut bad = good.clone();
        change(&mut bad);
        fs::write(path, &bad).unwrap();
        let error = self.open().unwrap_err();
        fs::write(path, &good).unwrap();
        error
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

#[test]
fn damage_in_each_section_of_a_state_file_is_named() {
    let victim = Victim::new();
    let state = victim.blob(victim.digest);
    victim.open().unwrap();
    let bytes = fs::read(&state).unwrap();
    let count = number(&bytes[28..32]);
    let mut sections = Vec::new();
    for entry in bytes[32..32 + 48 * count].chunks(48) {
        let (offset, length) = (number(&entry[4..8]), number(&entry[8..16]));
        let error = victim.open_with(&state, |bytes| bytes[offset + length / 2] ^= 0x10);
        match error {
            Error::Snapshot { snapshot, source: SnapshotError::Digest { section } } => {
                assert_eq!(snapshot, victim.digest);
                sections.push(section);
            }
            other => panic!("{other:?}"),
        }
    }
    let expected = [
        "machine",
        "workload",
        "vcpus",
        "ioapic",
        "clock",
        "slots",
        "serial",
        "disks",
        "memory",
        "working set",
    ];
    assert_eq!(sections, expected);
    for offset in [0, 8, 10, 12, 28, 40, 33 + 48 * count] {
        let error = victim.open_with(&state, |bytes| bytes[offset] ^= 0x40);
        assert!(matches!(error, Error::Snapshot { .. }), "{offset}: {error:?}");
    }
    for length in [0, 7, 31, 100, bytes.len() / 2, bytes.len() - 1] {
        let error = victim.open_with(&state, |bytes| bytes.truncate(length));
        assert!(matches!(error, Error::Snapshot { .. }), "{length}: {error:?}");
    }
    let error = victim.open_with(&state, |bytes| bytes.push(0));
    assert!(matches!(error, Error::Snapshot { .. }), "{error:?}");
    assert_eq!(sh(&victim.open().unwrap().start(&VmConfig::new()).unwrap(), "echo well"), "well\n");
}

#[test]
fn damaged_pages_and_disks_are_named() {
    let victim = Victim::new();
    victim.open().unwrap();
    let pages = victim.snapshot.memory.blob;
    let disk = victim.snapshot.disks[0].blob;
    let flip = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    for (wanted, blob) in [("pages", pages), ("disk", disk)] {
        let path = victim.blob(blob);
        // What is mapped already stands by itself; made anew, it is made of checked pages.
        let _ = fs::remove_dir_all(victim.cache());
        let error = victim.open_with(&path, flip);
        let Error::DamagedBlob { what, path: told, found } = &error else { panic!("{error:?}") };
        assert_eq!((*what, told), (wanted, &path));
        assert_ne!(*found, blob);
        let error = victim.open_with(&path, |bytes| bytes.truncate(bytes.len() / 2));
        assert!(
            matches!(&error, Error::DamagedBlob { .. } | Error::MissingBlob { .. }),
            "{wanted}: {error:?}"
        );
        let good = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let error = victim.open().unwrap_err();
        let Error::MissingBlob { what, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*what, wanted);
        fs::write(&path, good).unwrap();
    }
    assert_eq!(sh(&victim.open().unwrap().start(&VmConfig::new()).unwrap(), "echo well"), "well\n");
}

#[test]
fn missing_parent_and_damaged_names_are_told() {
    let victim = Victim::new();
    let parent = victim.blob(victim.snapshot.machine.parent.unwrap());
    let good = fs::read(&parent).unwrap();
    fs::remove_file(&parent).unwrap();
    let error = victim.open().unwrap_err();
    let Error::MissingBlob { what, path } = &error else { panic!("{error:?}") };
    assert_eq!((*what, path), ("state", &parent));
    fs::write(&parent, good).unwrap();

    let name = victim.root.join("names").join("busybox");
    for text in ["", "\n", "sha256:", "sha256:12", "no digest at all", "\0\u{ff}"] {
        fs::write(&name, text).unwrap();
        let error = Image::from_snapshot(&name).unwrap_err();
        assert!(matches!(&error, Error::NotAReference { .. }), "{text:?}: {error:?}");
        let store = Store::open_with_cache(&victim.root, victim.cache()).unwrap();
        let error = store.image("busybox").unwrap_err();
        let text = causes(&error);
        assert!(text.contains("does not name a snapshot"), "{text}");
    }
    fs::write(&name, [0xFF, 0xFE]).unwrap();
    let error = Image::from_snapshot(&name).unwrap_err();
    assert!(matches!(&error, Error::NotAReference { .. }), "{error:?}");
    let error = Image::from_snapshot(victim.root.join("names/none")).unwrap_err();
    assert!(matches!(error, Error::NoSnapshot { .. }), "{error:?}");
}

#[test]
fn damaged_mapped_form_is_made_again() {
    let victim = Victim::new();
    victim.open().unwrap();
    let mapped = victim.cache().join("mapped").join(victim.digest.hex());
    let well = || {
        let image = victim.open().unwrap();
        assert_eq!(sh(&image.start(&VmConfig::new()).unwrap(), "echo well"), "well\n");
    };
    let memory = mapped.join("memory");
    let size = fs::metadata(&memory).unwrap().len();
    fs::File::options().write(true).open(&memory).unwrap().set_len(size / 2).unwrap();
    well();
    fs::write(&memory, b"not what it was").unwrap();
    well();
    fs::remove_file(&memory).unwrap();
    well();
    fs::write(mapped.join("stamp"), b"").unwrap();
    well();
    fs::remove_dir_all(&mapped).unwrap();
    well();
}

#[test]
fn snapshot_of_another_architecture_is_refused() {
    let victim = Victim::new();
    let mut snapshot = victim.snapshot.clone();
    snapshot.architecture = Architecture::Aarch64;
    let bytes = snapshot.encode();
    let digest = Digest::of(&bytes);
    fs::write(victim.blob(digest), &bytes).unwrap();
    let opened = Image::open(&Blobs::new(&victim.root), digest, &victim.cache());
    let error = opened.and_then(|image| image.start(&VmConfig::new())).unwrap_err();
    let Error::Machine { source: MachineError::Architecture { found, host } } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((*found, *host), (Architecture::Aarch64, Architecture::X86_64));
}

#[test]
fn two_bakes_of_one_name_at_once_both_succeed() {
    let (_dir, store) = own_store();
    let bakes: Vec<_> = thread::scope(|scope| {
        let both = [0, 1].map(|_| {
            scope.spawn(|| told(bake("busybox").entrypoint(["sleep", "9"]).name("x").bake(&store)))
        });
        both.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(bakes[0].digest, bakes[1].digest);
    assert_eq!(store.digest("x").unwrap(), bakes[0].digest);
    assert_eq!(store.names().unwrap(), ["x"]);
    assert_eq!(bakes.iter().filter(|baked| baked.was_cached).count(), 1);
    assert_eq!(sh(&start(&store.image("x").unwrap()), "echo well"), "well\n");
}

/// A file system of a few bytes. Mounting takes root.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new() -> Self {
        let path = tempfile::tempdir_in(support::folder()).unwrap().keep();
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

/// Bakes on a disk of each size, which must fail for want of room, and then with room.
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
    told(try_bake(&open(&disk.0)));
    assert_eq!(sh(&start(&open(&disk.0).image("x").unwrap()), "echo well"), "well\n");
}

#[test]
fn store_without_room_is_told_and_nothing_half_made_is_left() {
    let cache = tempfile::tempdir_in(support::folder()).unwrap();
    bake_on_small_disk(&[1, 6, 12], |disk| {
        Store::open_with_cache(disk.join("store"), cache.path()).unwrap()
    });
}

#[test]
fn cache_without_room_is_told_and_nothing_half_made_is_left() {
    let store = tempfile::tempdir_in(support::folder()).unwrap();
    bake_on_small_disk(&[1, 10], |disk| {
        Store::open_with_cache(store.path().join("store"), disk.join("cache")).unwrap()
    });
}

/// The baking process is this test itself, started anew.
#[test]
fn bake_that_is_killed_leaves_a_store_that_works() {
    const WITHIN: &str = "SUPERMACHINE_TEST_KILLED_STORE";
    let bake = || bake("busybox").entrypoint(["sleep", "9"]).name("x");
    let open = |dir: &Path| Store::open_with_cache(dir.join("store"), dir.join("cache")).unwrap();
    if let Some(dir) = std::env::var_os(WITHIN) {
        told(bake().bake(&open(Path::new(&dir))));
        return;
    }
    let (dir, _) = own_store();
    for millis in [300, 900, 1700, 2600, 3700, 5000] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "bake_that_is_killed_leaves_a_store_that_works", "--nocapture"])
            .env(WITHIN, dir.path())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(millis));
        let finished = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(dir.path());
        for name in store.names().unwrap() {
            // A name is there only with all that it leads to.
            assert_eq!(sh(&start(&store.image(&name).unwrap()), "echo well"), "well\n");
        }
        if finished {
            break;
        }
    }
    let store = open(dir.path());
    told(bake().bake(&store));
    assert_eq!(sh(&start(&store.image("x").unwrap()), "echo well"), "well\n");
}

#[test]
fn guest_that_panics_ends_the_waiting_command() {
    let vm = start(&busybox());
    let begin = Instant::now();
    let command = "echo 2 > /proc/sys/vm/panic_on_oom; echo begun; tail /dev/zero";
    let error = vm.exec(["sh", "-c", command]).unwrap_err();
    let Error::Guest { console, .. } = &error else { panic!("{error:?}") };
    assert!(console.contains("panic"), "{console}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    // From now on every command says so at once.
    let begin = Instant::now();
    let again = vm.exec(["true"]).unwrap_err();
    assert!(matches!(again, Error::Guest { .. }), "{again:?}");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(matches!(vm.stop(), Err(Error::Guest { .. })));
}

#[test]
fn workload_cannot_halt_the_guest_under_the_agent() {
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
    // Signals that would end any other process.
    sh(&vm, "kill -9 1; kill -TERM 1; kill -SEGV 1; true");
    assert_eq!(sh(&vm, "echo well"), "well\n");
    vm.stop().unwrap();
}

#[test]
fn process_that_takes_all_memory_is_killed_alone() {
    let vm = start(&busybox());
    let outcome = vm.exec(["tail", "/dev/zero"]).unwrap();
    assert_eq!(outcome.status.signal(), Some(9), "{outcome:?}");
    assert!(!outcome.timed_out);
    assert!(outcome.peak_rss_kib > 64 << 10, "{} KiB", outcome.peak_rss_kib);
    // Files take memory too, and may not take all.
    let outcome = vm.exec(["dd", "if=/dev/zero", "of=/tmp/full", "bs=1M"]).unwrap();
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert_eq!(sh(&vm, "rm /tmp/full; echo well"), "well\n");
    vm.stop().unwrap();
}
