//! Bakes from build scripts: shared, cached, warmed up, with files of the host, and killed halfway.

#![expect(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and prints how long a lookup took"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Instant;

use supermachine::{Image, VmConfig};
use supermachine_baker::lock::Lock;
use supermachine_baker::oci::{Event, FetchOptions};
use supermachine_baker::{BakeError, Baked, BuildCache, Observer, OciImageBuilder, WorkloadError};
use supermachine_formats::snapshot::Stage;
use supermachine_snapshots::pack::Source;
use supermachine_test_support::machines::{bake, causes, folder, reference, sh, start};

/// Set in the child process of a test: the folder of its cache.
const WITHIN: &str = "SUPERMACHINE_TEST_BUILDS";

/// The build cache that all tests share.
fn builds() -> BuildCache {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    BuildCache::open_in(CACHE.get_or_init(|| folder().join("builds-cache"))).unwrap()
}

fn lock() -> Lock {
    Lock::open(folder().join("no-such.lock")).unwrap()
}

/// Counts the machines that are started for bakes.
#[derive(Default)]
struct Starts(AtomicUsize);

impl Starts {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Observer for Starts {
    fn step(&self, step: &str) {
        eprintln!("{step}");
        if step == "start" || step == "warm up" {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn fetch(&self, _event: Event<'_>) {}
}

fn sleeper(starts: &Arc<Starts>) -> OciImageBuilder {
    let observer: Arc<dyn Observer> = Arc::clone(starts) as _;
    bake("busybox").entrypoint(["sleep", "1000000"]).name("app").observer(observer)
}

fn expect_baked(baked: Result<Baked, BakeError>) -> Baked {
    baked.unwrap_or_else(|error| panic!("{}", causes(&error)))
}

fn image(baked: &Baked) -> Image {
    builds().store().open_image(baked.digest).unwrap()
}

#[test]
fn concurrent_builds_share_one_bake_and_a_third_needs_no_network() {
    let starts = Arc::new(Starts::default());
    let builder = sleeper(&starts).env("SHARED", "1");
    let bakes: Vec<(Baked, Lock)> = thread::scope(|scope| {
        let of = |package: &'static str| {
            let builder = builder.clone();
            scope.spawn(move || {
                let mut lock = lock();
                (expect_baked(builds().bake(package, &builder, &mut lock)), lock)
            })
        };
        let threads = [of("one"), of("two")];
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(starts.count(), 1);
    assert_eq!(bakes[0].0.digest, bakes[1].0.digest);
    assert_eq!(bakes.iter().filter(|(baked, _)| baked.was_cached).count(), 1);
    for name in ["one.app", "two.app"] {
        assert_eq!(builds().store().digest(name).unwrap(), bakes[0].0.digest);
    }
    // The lock file pins the image now, so no registry is asked.
    let mut lock = bakes[0].1.clone();
    let pinned: Vec<_> = lock.images().map(|(_, digest)| digest).collect();
    assert_eq!(pinned, [bakes[0].0.image]);
    let mut offline = FetchOptions::default();
    offline.offline = true;
    let begin = Instant::now();
    let again =
        expect_baked(builds().bake("three", &builder.clone().fetch_options(offline), &mut lock));
    eprintln!("found in {:?}", begin.elapsed());
    assert!(again.was_cached && again.digest == bakes[0].0.digest);
    assert_eq!(sh(&start(&image(&again)), "echo $SHARED"), "1\n");

    let other = expect_baked(builds().bake("one", &builder.env("SHARED", "2"), &mut lock));
    assert!(!other.was_cached);
    assert_eq!(starts.count(), 2);
    assert_eq!(sh(&start(&image(&other)), "echo $SHARED"), "2\n");
}

#[test]
fn added_files_of_the_host_belong_to_root_in_the_guest() {
    let host = tempfile::tempdir_in(folder()).unwrap();
    fs::create_dir(host.path().join("deep")).unwrap();
    fs::write(host.path().join("deep/data"), "first").unwrap();
    let starts = Arc::new(Starts::default());
    let bake = || {
        let builder = sleeper(&starts)
            .file("/opt/app", host.path())
            .file("/etc/added", host.path().join("deep/data"));
        expect_baked(builds().bake("files", &builder, &mut lock()))
    };
    let script = "cat /opt/app/deep/data /etc/added; stat -c '%u %g %a' /opt/app/deep/data; ls -d /etc/passwd";
    let vm = start(&image(&bake()));
    assert_eq!(sh(&vm, script), "firstfirst0 0 644\n/etc/passwd\n");
    assert!(bake().was_cached);
    fs::write(host.path().join("deep/data"), "other").unwrap();
    let again = bake();
    assert!(!again.was_cached);
    assert_eq!(sh(&start(&image(&again)), "cat /etc/added"), "other");
}

#[test]
fn warm_up_is_captured_and_repeated_when_its_tag_changes() {
    let starts = Arc::new(Starts::default());
    let bake = |tag: &str, word: &'static str| {
        let builder = sleeper(&starts)
            .with_warmup(move |vm| {
                vm.write_file("/tmp/warm", word)?;
                let outcome = vm.exec(["sh", "-c", "sleep 100000 & echo $! > /tmp/pid"])?;
                assert!(outcome.success());
                Ok(())
            })
            .with_warmup_tag(tag);
        expect_baked(builds().bake("warm", &builder, &mut lock()))
    };
    let first = bake("1", "first");
    let opened = image(&first);
    assert_eq!(opened.snapshot().machine.stage, Stage::Warmed);
    assert_eq!(opened.snapshot().workload.as_ref().unwrap().argv, ["sleep", "1000000"]);
    assert_eq!(
        sh(&start(&opened), "cat /tmp/warm; ls -d /proc/$(cat /tmp/pid) | wc -l"),
        "first1\n"
    );
    let before = starts.count();
    assert_eq!(bake("1", "not run").digest, first.digest);
    assert_eq!(starts.count(), before);
    let second = bake("2", "second");
    // Only the warm-up runs: the image's own snapshot is cached.
    assert_eq!(starts.count(), before + 1);
    assert_eq!(sh(&start(&image(&second)), "cat /tmp/warm"), "second");

    let failing = sleeper(&starts).with_warmup_commands([["sh", "-c", "echo no; exit 3"]]);
    let error = builds().bake("warm", &failing, &mut lock()).unwrap_err();
    assert!(matches!(error, BakeError::Workload(WorkloadError::Warmup { .. })), "{error:?}");
    let text = causes(&error);
    assert!(text.contains("exit 3") && text.contains("no"), "{text}");
}

#[test]
fn embedded_snapshot_runs() {
    let starts = Arc::new(Starts::default());
    let baked = expect_baked(builds().bake("embedded", &sleeper(&starts), &mut lock()));
    let path = folder().join("embedded.tar");
    builds().store().export(&baked.name, &path).unwrap();
    let pack: &'static [u8] = fs::read(&path).unwrap().leak();
    let source = Source::embedded("app", pack).unwrap();
    let digest = source.find(None).unwrap();
    assert_eq!(digest, baked.digest);
    let cache = tempfile::tempdir_in(folder()).unwrap();
    let image = Image::open(source, digest, cache.path()).unwrap();
    let vm = image.start(&VmConfig::new()).unwrap();
    assert_eq!(sh(&vm, "echo hello"), "hello\n");
    // Once from the pack itself, and once from its mapped form.
    image.mapped().unwrap();
    assert_eq!(sh(&start(&image), "ls /bin/busybox"), "/bin/busybox\n");
}

#[test]
fn killed_bake_does_not_block_the_next() {
    if let Some(cache) = std::env::var_os(WITHIN) {
        // The parent process kills this one.
        let builds = BuildCache::open_in(Path::new(&cache)).unwrap();
        let starts = Arc::new(Starts::default());
        builds.bake("killed", &sleeper(&starts), &mut lock()).unwrap();
        return;
    }
    let cache = tempfile::tempdir_in(folder()).unwrap();
    // Once during the base, which takes longest, and once during the capture.
    for step in ["base", "capture"] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed_bake_does_not_block_the_next", "--nocapture"])
            .env(WITHIN, cache.path())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let reached = lines.map_while(Result::ok).any(|line| line == step);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(reached && !status.success(), "{step}: {status}");
    }
    let builds = BuildCache::open_in(cache.path()).unwrap();
    let starts = Arc::new(Starts::default());
    let baked = expect_baked(builds.bake("killed", &sleeper(&starts), &mut lock()));
    assert!(!baked.was_cached);
    let opened = builds.store().open_image(baked.digest).unwrap();
    assert_eq!(sh(&start(&opened), "echo alive"), "alive\n");
    assert!(builds.store().verify(&baked.name).unwrap().problems.is_empty());
}

#[test]
fn image_is_pinned_to_the_digest_of_its_tag() {
    let starts = Arc::new(Starts::default());
    let mut lock = lock();
    let baked = expect_baked(builds().bake("pin", &sleeper(&starts), &mut lock));
    let text = reference("busybox");
    let (pinned, digest) = lock.images().next().unwrap();
    assert!(pinned.starts_with(&text), "{pinned}");
    assert_eq!(digest, baked.image);
    let workload = image(&baked).snapshot().workload.clone().unwrap();
    assert!(workload.reference.ends_with(&digest.to_string()), "{}", workload.reference);
}
