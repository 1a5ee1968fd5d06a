//! Stores, images and machines for tests that need a hypervisor.
//!
//! A test program has one store in a temporary folder and bakes each image once. The images come from
//! the test registry. Without it the tests fail; they are never skipped.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use supermachine::{AssetPaths, ExecOutcome, Image, Vm, VmConfig};
use supermachine_baker::{BakeError, Baked, Observer, OciImageBuilder, Store, oci};
use tempfile::TempDir;

/// Longer than anything takes, even on a slow host.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The most seconds between a guest's clock and the host's.
const CLOCK_TOLERANCE: f64 = 0.050;
/// Seconds that the message with the time may take on a busy host.
pub const RESUME_DELAY: f64 = 0.5;
/// Asks for a full run.
const FULL: &str = "SUPERMACHINE_TEST_FULL";
/// The address of the test registry.
const REGISTRY: &str = "SUPERMACHINE_TEST_REGISTRY";

/// `full` in a full run (`SUPERMACHINE_TEST_FULL`), `usual` in an ordinary one.
pub fn scaled<T>(full: T, usual: T) -> T {
    if std::env::var_os(FULL).is_some() { full } else { usual }
}

/// Waits until something holds that no event announces.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The test program's folder, which is removed when the program exits.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = tempfile::Builder::new().prefix("sm-test-").tempdir().unwrap().keep();
        // SAFETY: a handler that takes and returns nothing.
        assert_eq!(unsafe { libc::atexit(remove_folder) }, 0);
        folder
    })
}

extern "C" fn remove_folder() {
    let _ = fs::remove_dir_all(folder());
}

/// The test program's store.
pub fn store() -> &'static Store {
    static STORE: OnceLock<Store> = OnceLock::new();
    STORE.get_or_init(|| {
        Store::open_with_cache(folder().join("store"), folder().join("cache")).unwrap()
    })
}

/// A store that only one test uses.
pub fn own_store() -> (TempDir, Store) {
    let dir = tempfile::tempdir_in(folder()).unwrap();
    let store = Store::open_with_cache(dir.path().join("store"), dir.path().join("cache"));
    (dir, store.unwrap())
}

/// The reference of one of the test registry's images.
pub fn reference(image: &str) -> String {
    let Some(registry) = std::env::var_os(REGISTRY) else {
        panic!("{REGISTRY} is not set: these tests run under `cargo xtask test`");
    };
    format!("{}/{image}", registry.to_str().unwrap())
}

/// A bake of one of the test registry's images, with little memory. It prints its steps.
pub fn bake(image: &str) -> OciImageBuilder {
    let observer = Steps { begin: Instant::now(), image: image.to_owned() };
    OciImageBuilder::new(&reference(image))
        .unwrap()
        .memory_mib(128)
        .ready_timeout(Duration::from_secs(240))
        .compression_level(1)
        .observer(Arc::new(observer))
}

/// Prints each step of a bake with its time, to show where a test hangs.
#[derive(Debug)]
struct Steps {
    begin: Instant,
    image: String,
}

impl Observer for Steps {
    fn step(&self, step: &str) {
        eprintln!("{}: {:.1} s: {step}", self.image, self.begin.elapsed().as_secs_f64());
    }

    fn fetch(&self, _event: oci::Event<'_>) {}
}

/// Bakes into the program's store, once for each name.
pub fn baked(name: &str, describe: impl FnOnce() -> OciImageBuilder) -> Image {
    static IMAGES: Mutex<Option<HashMap<String, Image>>> = Mutex::new(None);
    let mut images = IMAGES.lock().unwrap_or_else(PoisonError::into_inner);
    let images = images.get_or_insert_default();
    if let Some(image) = images.get(name) {
        return image.clone();
    }
    let baked = describe().name(name).bake(store());
    expect_baked(baked);
    let image = store().image(name).unwrap();
    images.insert(name.to_owned(), image.clone());
    image
}

/// Unwraps a bake. Panics with all causes of a failure.
pub fn expect_baked(baked: Result<Baked, BakeError>) -> Baked {
    baked.unwrap_or_else(|error| panic!("{}", causes(&error)))
}

/// An error and its causes, one on each line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str("\n  because ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// Busybox without a service: its entrypoint sleeps.
pub fn busybox() -> Image {
    baked("busybox", || bake("busybox").entrypoint(["sleep", "1000000"]))
}

/// Starts a machine of an image.
pub fn start(image: &Image) -> Vm {
    image.start(&VmConfig::new()).unwrap()
}

/// The seconds that a machine's wall clock is behind the host's; negative if it is ahead, zero if the
/// difference is within the tolerance.
pub fn clock_error(vm: &Vm) -> f64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    // Busybox's date has no fractions.
    let script = "adjtimex | awk '/tv_sec/ {s=$2} /tv_usec/ {u=$2} END {printf \"%d.%06d\", s, u}'";
    let before = now();
    let guest: f64 = sh(vm, script).trim().parse().unwrap();
    let after = now();
    eprintln!("guest {guest:.3}, host {before:.3} to {after:.3}");
    if guest < before - CLOCK_TOLERANCE {
        before - guest
    } else if guest > after + CLOCK_TOLERANCE {
        after - guest
    } else {
        0.0
    }
}

/// Runs one test at a time: some count everything that the process holds.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The numbers of this library's threads and of the process's descriptors.
pub fn held() -> (usize, usize) {
    let is_ours = |task: &fs::DirEntry| {
        let name = fs::read_to_string(task.path().join("comm"));
        name.is_ok_and(|name| name.starts_with("sm-"))
    };
    let tasks = fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    let threads = tasks.filter(is_ours).count();
    (threads, fs::read_dir("/proc/self/fd").unwrap().count())
}

/// Runs a shell script that must succeed, and returns its output.
pub fn sh(vm: &Vm, script: &str) -> String {
    succeeded(&vm.exec(["sh", "-c", script]).unwrap(), script)
}

/// Runs a shell script that must fail, and returns all of its output.
pub fn fails(vm: &Vm, script: &str) -> String {
    let outcome = vm.exec(["sh", "-c", script]).unwrap();
    let text = [outcome.stdout.clone(), outcome.stderr.clone()].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(!outcome.success(), "{script}: {text}");
    text
}

/// The configuration with this worker, which a link in the folder `programs` leads to.
pub fn isolated_by(worker: &str, config: VmConfig, programs: &Path) -> VmConfig {
    let _ = symlink(worker, programs.join("supermachine-worker"));
    config.with_isolated(true).with_assets(AssetPaths::from_dir(programs))
}

/// The output of a command that must have succeeded.
pub fn succeeded(outcome: &ExecOutcome, what: &str) -> String {
    let stdout = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&outcome.stderr);
    assert!(outcome.success(), "{what}: {}\n{stdout}\n{stderr}", outcome.status);
    stdout
}
