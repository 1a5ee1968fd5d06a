//! Commands that are killed at random moments: complete snapshots survive intact.
//!
//! Needs the package `docker-registry`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use supermachine_baker::{Store, SweepOptions};
use supermachine_snapshots::pack::Descriptor;
use supermachine_test_support::registry::DockerRegistry;
use supermachine_test_support::stores::{Sample, put};
use support::{Home, age, files};

const ROUNDS: u32 = 25;

/// A small random generator, so that each round kills at another moment.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % limit.max(1)
    }
}

/// How long a command takes without interruption.
fn measure(home: &Home, arguments: &[&str]) -> Duration {
    let begin = Instant::now();
    home.run(arguments).succeeds();
    begin.elapsed()
}

/// Runs a command and kills it after a part of `whole`; returns whether it was quicker.
fn kill_within(home: &Home, arguments: &[&str], whole: Duration, random: &mut Random) -> bool {
    let mut command = home.command(arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let limit = u64::try_from(whole.as_micros()).unwrap();
    // The moment of the kill is what varies.
    thread::sleep(Duration::from_micros(random.below(limit)));
    child.kill().unwrap();
    child.wait().unwrap().success()
}

fn add(store: &Store, name: &str, sample: &Sample) -> Descriptor {
    let manifest = put(store.layout(), sample);
    store.layout().set_name(name, manifest).unwrap();
    manifest
}

/// Asserts that the store has these names, and that their snapshots are intact.
#[track_caller]
fn is_whole(home: &Home, names: &[&str]) {
    let store = home.open_store();
    assert_eq!(store.names().unwrap(), names);
    for name in names {
        let verified = store.verify(name).unwrap();
        assert!(verified.problems.is_empty(), "{name}: {:?}", verified.problems);
    }
}

#[test]
fn killed_import_keeps_the_store_and_can_be_repeated() {
    let from = Home::new();
    add(&from.open_store(), "large", &Sample::new(1).large(1, 96));
    let file = from.path("large.tar").display().to_string();
    from.run(&["export", "large", &file]).succeeds();
    let import = ["import", &file];
    let whole = measure(&Home::new(), &import);
    let (home, mut random) = (Home::new(), Random(0x9e37_79b9));
    add(&home.open_store(), "a", &Sample::new(2));
    for _ in 0..ROUNDS {
        kill_within(&home, &import, whole, &mut random);
        let store = home.open_store();
        match store.digest("large") {
            Ok(_) => is_whole(&home, &["a", "large"]),
            Err(_) => is_whole(&home, &["a"]),
        }
        if random.below(2) == 0 {
            let _ = store.remove("large");
            store.sweep(SweepOptions::default(), || ()).unwrap();
        }
    }
    home.run(&import).succeeds();
    is_whole(&home, &["a", "large"]);
    // Young temporary files may be in use.
    age(&home.store().join("tmp"));
    home.run(&["gc"]).succeeds();
    assert_eq!(files(&home.store().join("tmp")), [""; 0]);
}

#[test]
fn killed_sweep_keeps_every_named_snapshot() {
    let mut random = Random(0x2545_f491);
    let prepare = |seed: u64| {
        let home = Home::new();
        let store = home.open_store();
        let base = put(store.layout(), &Sample::new(1));
        add(&store, "a", &Sample::new(2).on(base.digest).disk(&[7]));
        store.image("a").unwrap().mapped().unwrap();
        for number in 0..6 {
            let garbage = Sample::new(seed * 100 + number).on(base.digest).disk(&[7, number]);
            let manifest = put(store.layout(), &garbage);
            store.open_image(manifest.digest).unwrap().mapped().unwrap();
        }
        home
    };
    let whole = measure(&prepare(0), &["gc"]);
    for round in 0..u64::from(ROUNDS) {
        let home = prepare(round + 1);
        kill_within(&home, &["gc"], whole, &mut random);
        is_whole(&home, &["a"]);
        home.open_store().image("a").unwrap().mapped().unwrap();
        home.run(&["gc"]).succeeds();
        is_whole(&home, &["a"]);
        let digest = home.open_store().digest("a").unwrap();
        let summary = home.open_store().summary(digest).unwrap();
        let left = files(&home.store().join("blobs/sha256")).len();
        assert_eq!(left, summary.blobs().count());
        assert_eq!(files(&home.path("cache/supermachine/snapshots")), [digest.hex()]);
    }
}

#[test]
fn killed_export_leaves_the_old_file_or_the_new() {
    let home = Home::new();
    add(&home.open_store(), "large", &Sample::new(1).large(1, 96));
    let folder = home.path("out");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("large.tar");
    let export = ["export", "large", file.to_str().unwrap()];
    let whole = measure(&home, &export);
    let new = fs::read(&file).unwrap();
    let mut random = Random(0x1234_5678);
    for _ in 0..ROUNDS {
        fs::write(&file, "old").unwrap();
        kill_within(&home, &export, whole, &mut random);
        let found = fs::read(&file).unwrap();
        assert!(found == b"old" || found == new, "{} bytes", found.len());
    }
    is_whole(&home, &["large"]);
}

#[test]
fn killed_pull_resumes() {
    let registry = DockerRegistry::start(None);
    let from = Home::new();
    add(&from.open_store(), "large", &Sample::new(1).large(1, 96).disk(&[1, 2, 3]));
    let at = format!("{}/large:v1", registry.address);
    from.run(&["push", "large", &at]).succeeds();
    let pull = ["pull", "--fetch-only", &at];
    let whole = measure(&Home::new(), &pull);
    let (home, mut random) = (Home::new(), Random(0xdead_beef));
    add(&home.open_store(), "a", &Sample::new(2));
    for _ in 0..ROUNDS {
        kill_within(&home, &pull, whole, &mut random);
        match home.open_store().digest("large") {
            Ok(_) => is_whole(&home, &["a", "large"]),
            Err(_) => is_whole(&home, &["a"]),
        }
        if random.below(3) == 0 {
            let _ = home.open_store().remove("large");
            home.run(&["gc"]).succeeds();
        }
    }
    home.run(&pull).succeeds();
    is_whole(&home, &["a", "large"]);
}
