//! Sweeps remove what is unreachable, and nothing else.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, SystemTime};

use supermachine_baker::{BakeError, StoreError, SweepOptions, Swept};
use supermachine_formats::Digest;
use supermachine_formats::snapshot::Stage;
use supermachine_test_support::stores::{Sample, TestStore, disk, names};

fn sweep(place: &TestStore) -> Swept {
    place.store.sweep(SweepOptions::default(), || panic!("it must not wait")).unwrap()
}

fn sweep_all(place: &TestStore) -> Swept {
    let mut options = SweepOptions::default();
    options.all = true;
    place.store.sweep(options, || panic!("it must not wait")).unwrap()
}

/// The names of the blobs of snapshots.
fn of(place: &TestStore, digests: &[Digest]) -> Vec<String> {
    let of_one = |digest: &Digest| {
        let manifest = place.manifest(*digest);
        manifest.blobs().map(|blob| blob.digest).chain([*digest]).collect::<Vec<_>>()
    };
    let all: BTreeSet<String> =
        digests.iter().flat_map(of_one).map(|digest| digest.hex()).collect();
    all.into_iter().collect()
}

fn make_old(path: &Path) {
    let old = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
}

#[test]
fn removed_name_frees_what_no_other_shares() {
    let place = TestStore::new();
    let base = place.put(&Sample::new(1)).digest;
    let a = place.add("a", &Sample::new(2).on(base).disk(&[7]));
    let b = place.add("b", &Sample::new(3).on(base).disk(&[7, 8]));
    let before = place.store.usage().unwrap();
    sweep(&place);
    // The parent has no name, but its chunks stay.
    assert_eq!(place.blobs(), of(&place, &[a, b]));
    place.store.remove("b").unwrap();
    let usage = place.store.usage().unwrap();
    assert_eq!(usage.unreferenced, before.snapshots["b"].0);
    let mut rehearsal = SweepOptions::default();
    rehearsal.dry_run = true;
    let told = place.store.sweep(rehearsal, || ()).unwrap();
    assert_eq!(
        place.blobs().len(),
        usize::try_from(told.blobs.count).unwrap() + of(&place, &[a]).len()
    );
    let swept = sweep(&place);
    assert_eq!(swept.blobs, told.blobs);
    assert_eq!(swept.blobs.bytes, before.snapshots["b"].0);
    assert_eq!(place.blobs(), of(&place, &[a]));
    place.is_clean();
    assert_eq!(sweep(&place).blobs.count, 0);
}

#[test]
fn bases_and_root_disks_in_use_stay_for_the_next_bake() {
    let place = TestStore::new();
    let boot = place.put(&Sample::new(9).stage(Stage::Boot)).digest;
    let base = place.put(&Sample::new(1).stage(Stage::Base)).digest;
    let used = place.add("web", &Sample::new(2).on(base).disk(&[7]));
    let unnamed = place.put(&Sample::new(3).on(base).disk(&[8])).digest;
    let layout = place.store.layout();
    let disk_of =
        |seeds: &[u64]| layout.put(&disk(place.store.layout(), seeds).encode()).unwrap().digest;
    let (live, dead) = (disk_of(&[7]), disk_of(&[8]));
    let key = |input: &str, made| place.key(input.as_bytes(), made);
    let kept = [key("base", base), key("image", used), key("disk", live)];
    let gone = [key("unnamed", unnamed), key("other disk", dead), key("nothing", Digest::of(b""))];
    let broken = place.store.dir().join("keys/broken");
    fs::write(&broken, "nonsense").unwrap();
    let swept = sweep(&place);
    assert_eq!(swept.keys, 4);
    assert!(kept.iter().all(|path| path.is_file()));
    assert!(gone.iter().chain([&broken]).all(|path| !path.exists()));
    let mut expected = of(&place, &[base, used]);
    expected.push(live.hex());
    expected.sort();
    assert_eq!(place.blobs(), expected);
    assert!(!place.blob(boot).exists());
    sweep_all(&place);
    let mut expected = of(&place, &[used]);
    expected.push(live.hex());
    expected.sort();
    assert_eq!(place.blobs(), expected);
    place.is_clean();
}

#[test]
fn random_stores_keep_exactly_what_names_reference() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |limit: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) % limit
    };
    for round in 0..20 {
        let place = TestStore::new();
        let mut made: Vec<Digest> = Vec::new();
        let mut named = BTreeSet::new();
        for number in 0..2 + random(8) {
            let mut sample = Sample::new(random(6));
            if random(2) == 0 {
                let seeds: Vec<u64> = (0..=random(3)).map(|_| random(5)).collect();
                sample = sample.disk(&seeds);
            }
            if let Some(parent) = made.get(usize::try_from(random(9)).unwrap()) {
                sample = sample.on(*parent);
            }
            let manifest = place.put(&sample);
            made.push(manifest.digest);
            if random(2) == 0 {
                place.store.layout().set_name(&format!("n{number}"), manifest).unwrap();
                named.insert(manifest.digest);
            }
        }
        let named: Vec<Digest> = named.into_iter().collect();
        let expected = of(&place, &named);
        sweep(&place);
        assert_eq!(place.blobs(), expected, "round {round}");
        place.is_clean();
    }
}

#[test]
fn mapped_forms_without_a_snapshot_go_and_others_stay() {
    let place = TestStore::new();
    let base = place.put(&Sample::new(1)).digest;
    let machines: Vec<_> = [("a", 2, 7), ("b", 3, 8)]
        .map(|(name, seed, disk)| {
            place.add(name, &Sample::new(seed).on(base).disk(&[disk]));
            let image = place.store.image(name).unwrap();
            image.mapped().unwrap().clone()
        })
        .into();
    let count = |folder: &str| {
        let all = names(&place.path("cache").join(folder));
        all.iter().filter(|name| name.len() == 64).count()
    };
    let counts = || ["snapshots", "memory", "overlays", "disks"].map(count);
    sweep(&place);
    assert_eq!(counts(), [2, 1, 2, 2]);
    place.store.remove("b").unwrap();
    let swept = sweep(&place);
    assert_eq!(counts(), [1, 1, 1, 1]);
    assert!(swept.mapped.bytes >= 4 * 65_536, "{swept:?}");
    let all = names(&place.path("cache/overlays"));
    assert_eq!(all.len(), 3, "file, lock and stamp: {all:?}");
    // Open files stay readable.
    let mut byte = [0; 4096];
    machines[1].memory.read_page(0, &mut byte).unwrap();
    place.store.image("a").unwrap().mapped().unwrap();
    place.is_clean();
}

#[test]
fn form_that_is_removed_while_it_is_opened_is_made_again() {
    let place = TestStore::new();
    let base = place.put(&Sample::new(1)).digest;
    place.add("a", &Sample::new(2).on(base).disk(&[7]));
    let other = TestStore::new();
    let cache = place.path("cache");
    // Another store without the snapshot, with the same cache.
    let stranger =
        supermachine_baker::Store::open_with_cache(other.path("stranger"), &cache).unwrap();
    thread::scope(|scope| {
        let starts: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..40 {
                        place.store.image("a").unwrap().mapped().unwrap();
                    }
                })
            })
            .collect();
        while starts.iter().any(|start| !start.is_finished()) {
            stranger.sweep(SweepOptions::default(), || ()).unwrap();
            thread::yield_now();
        }
    });
}

#[test]
fn leftovers_and_free_locks_go_and_those_in_use_stay() {
    let place = TestStore::new();
    let dir = place.store.dir().to_owned();
    let layout = place.store.layout();
    let mut writer = layout.writer().unwrap();
    writer.write(b"in the making").unwrap();
    let in_use = names(&dir.join("tmp"));
    for name in ["blob.0011.tmp", "blob-abc", "file.0022.tmp", "file.0033.tmp"] {
        fs::write(dir.join("tmp").join(name), "left").unwrap();
    }
    make_old(&dir.join("tmp/file.0033.tmp"));
    let locks = [b"a", b"b"].map(|input| Digest::of(input).hex());
    let _held = layout.lock(&locks[0]).unwrap();
    drop(layout.lock(&locks[1]).unwrap());
    let swept = sweep(&place);
    assert_eq!((swept.leftovers.count, swept.leftovers.bytes, swept.locks), (3, 12, 1));
    let mut expected = in_use;
    expected.push("file.0022.tmp".to_owned());
    expected.sort();
    assert_eq!(names(&dir.join("tmp")), expected);
    let mut expected = vec![locks[0].clone(), "sweep".to_owned()];
    expected.push("index".to_owned());
    expected.sort();
    assert_eq!(names(&dir.join("locks")), expected);
}

#[test]
fn sweep_waits_for_processes_that_write() {
    let place = TestStore::new();
    let hold = place.store.layout().hold().unwrap();
    let unnamed = place.put(&Sample::new(1));
    let mut hasty = SweepOptions::default();
    hasty.wait = false;
    let error = place.store.sweep(hasty, || ()).unwrap_err();
    assert!(matches!(error, BakeError::Store(StoreError::Busy { .. })), "{error:?}");
    let (sender, waits) = channel();
    thread::scope(|scope| {
        let store = place.store.clone();
        let sweeping = scope.spawn(move || {
            store.sweep(SweepOptions::default(), || sender.send(()).unwrap()).unwrap()
        });
        waits.recv().unwrap();
        place.store.layout().set_name("late", unnamed).unwrap();
        drop(hold);
        assert_eq!(sweeping.join().unwrap().blobs.count, 0);
    });
    place.is_clean();
}

#[test]
fn sweep_keeps_everything_if_a_named_snapshot_is_unreadable() {
    let place = TestStore::new();
    let digest = place.add("web", &Sample::new(1));
    place.put(&Sample::new(2));
    let before = place.blobs();
    let whole = fs::read(place.blob(digest)).unwrap();
    fs::write(place.blob(digest), "{}").unwrap();
    match place.store.sweep(SweepOptions::default(), || ()).unwrap_err() {
        BakeError::Store(StoreError::Unreadable { name, .. }) => assert_eq!(name, "web"),
        other => panic!("{other:?}"),
    }
    assert_eq!(place.blobs(), before);
    fs::write(place.blob(digest), whole).unwrap();
    let index = place.store.dir().join("index.json");
    let listed = fs::read(&index).unwrap();
    for damaged in ["", "{}", r#"{"manifests":[{}]}"#, r#"{"manifests":[{"digest":"x"}]}"#] {
        fs::write(&index, damaged).unwrap();
        place.store.sweep(SweepOptions::default(), || ()).unwrap_err();
        assert_eq!(place.blobs(), before, "{damaged}");
    }
    fs::write(&index, listed).unwrap();
    sweep(&place);
    assert_eq!(place.blobs(), of(&place, &[digest]));
}

#[test]
fn other_artifacts_in_the_folder_are_kept_with_their_blobs() {
    let place = TestStore::new();
    let layout = place.store.layout();
    let put = |bytes: &[u8]| layout.put(bytes).unwrap();
    let describe = |blob: supermachine_snapshots::pack::Descriptor| {
        format!(r#"{{"digest":"{}","size":{}}}"#, blob.digest, blob.size)
    };
    let (config, layer) = (describe(put(b"config")), describe(put(b"layer")));
    let image = put(format!(r#"{{"config":{config},"layers":[{layer}]}}"#).as_bytes());
    let list = put(format!(r#"{{"manifests":[{}]}}"#, describe(image)).as_bytes());
    put(b"garbage");
    let entry = describe(list).replace(r#"{"d"#, r#"{"artifactType":"application/x","d"#);
    fs::write(place.store.dir().join("index.json"), format!(r#"{{"manifests":[{entry}]}}"#))
        .unwrap();
    assert_eq!(sweep(&place).blobs.count, 1);
    assert_eq!(place.blobs().len(), 4);
}
