//! Writing into a folder: the same bytes for the same machine, and no partial files.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, SystemTime};

use supermachine_formats::pack::{IndexError, Layer, MAX_LAYERS};
use supermachine_formats::snapshot::Stage;

use super::*;

/// All files of a folder's blobs.
fn blobs(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir.join("blobs/sha256")).unwrap().map(Result::unwrap);
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

fn temporaries(dir: &Path) -> usize {
    fs::read_dir(dir.join("tmp")).unwrap().count()
}

#[test]
fn same_machine_gives_the_same_bytes_named_by_digest() {
    let (one, two) = (Store::new(), Store::new());
    let all = blobs(&one.path());
    assert_eq!(all, blobs(&two.path()));
    for (name, content) in &all {
        assert_eq!(*name, Digest::of(content).hex());
    }
    assert_eq!(temporaries(&one.path()), 0);
    let names = |store: &Store| fs::read(store.path().join("index.json")).unwrap();
    assert_eq!(names(&one), names(&two));
}

/// This build writes the same bytes as earlier ones, and reads theirs. Changed bytes need a new
/// version of the format, not a new file here.
#[test]
fn version_one_packs_are_written_unchanged_and_read() {
    type State = fn() -> ArchState;
    let states: [State; 2] = [samples::x86_64_state, samples::aarch64_state];
    for (name, arch) in ["pack-v1.tar", "pack-v1-aarch64.tar"].into_iter().zip(states) {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let store = Store::of(arch);
        let archive = fs::read(store.archive()).unwrap();
        if std::env::var_os("SUPERMACHINE_WRITE_GOLDEN").is_some() {
            fs::create_dir_all(golden.parent().unwrap()).unwrap();
            fs::write(&golden, &archive).unwrap();
        }
        let pack = Pack::open_at(&golden, Some("example")).unwrap();
        assert_is_the_sample(&pack, &store.made);
        assert_eq!(pack.snapshot.arch, arch());
        assert!(fs::read(&golden).unwrap() == archive, "{name}: other bytes");
    }
}

#[test]
fn long_chain_has_few_layers_and_all_content() {
    let store = Store::new();
    let layout = store.layout();
    let source = store.source();
    let mut parent = Pack::open(&source, store.made.base.digest).unwrap();
    let mut memory = store.made.base_memory.clone();
    let first = parent.index.memory.layers[0].clone();
    let mut most = 0;
    for round in 0..MAX_LAYERS as u64 + 8 {
        let state = samples::snapshot(Stage::Live, Some(parent.digest), &[]);
        let pages = [(round % 200, samples::page(100 + round as u8))];
        let (stored, now) =
            samples::store(&layout, &state, Some(&parent.index), &memory, &pages, None);
        memory = now;
        parent = Pack::open(&source, stored.digest).unwrap();
        most = most.max(parent.index.memory.layers.len());
        // The base stays a separate layer, for others to share.
        assert_eq!(parent.index.memory.layers[0], first, "round {round}");
    }
    assert_eq!(most, MAX_LAYERS - 1);
    assert!(content(&parent, &parent.index.memory).unwrap() == memory, "other memory");
}

#[test]
fn unreadable_pack_is_not_written() {
    let store = Store::new();
    let mut parent = store.open().unwrap().index;
    parent.memory.layers[0] = Layer::of([(0, Some(4_000_000))]);
    let before = blobs(&store.path());
    let state = samples::snapshot(Stage::Live, None, &[samples::DISK]);
    let composition = Composition {
        snapshot: &state,
        parent: Some(&parent),
        memory: MemoryChange { origin: None, pages: Vec::new() },
        also: Vec::new(),
        disks: None,
        first_use: Vec::new(),
        level: 1,
    };
    let error = composition.store(&store.layout()).unwrap_err();
    let expected = IndexError::Inconsistent { what: "an extent of chunks that no blob has" };
    assert!(matches!(&error, PackError::Composed { source } if *source == expected), "{error:?}");
    assert_eq!(blobs(&store.path()), before);
}

#[test]
fn dropped_or_mismatched_blob_leaves_nothing() {
    let store = Store::new();
    let layout = store.layout();
    let before = blobs(&store.path());
    let mut writer = layout.writer().unwrap();
    writer.write(b"half").unwrap();
    assert_eq!(temporaries(&store.path()), 1);
    drop(writer);
    let told = Descriptor { digest: Digest::of(b"told"), size: 4 };
    for (content, is_size) in [(&b"othe"[..], false), (b"tol", true), (b"toldx", true)] {
        let mut writer = layout.writer().unwrap();
        writer.write(content).unwrap();
        let error = writer.commit_as("chunks", &told).unwrap_err();
        match error {
            PackError::Size { section: "chunks", .. } => assert!(is_size),
            PackError::Damaged { section: "chunks", .. } => assert!(!is_size),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(blobs(&store.path()), before);
    assert_eq!(temporaries(&store.path()), 0);
    let mut writer = layout.writer().unwrap();
    writer.write(b"to").unwrap();
    writer.write(b"ld").unwrap();
    writer.commit_as("chunks", &told).unwrap();
    assert_eq!(fs::read(layout.blob_path(told.digest)).unwrap(), b"told");
}

#[test]
fn damaged_blob_is_replaced_by_its_next_writer() {
    let store = Store::new();
    let layout = store.layout();
    let blob = layout.put(b"content").unwrap();
    fs::write(layout.blob_path(blob.digest), b"CONTENT").unwrap();
    assert_eq!(layout.put(b"content").unwrap(), blob);
    assert_eq!(fs::read(layout.blob_path(blob.digest)).unwrap(), b"content");
}

#[test]
fn names_set_concurrently_are_all_kept() {
    let store = Store::new();
    let image = store.made.image;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let path = store.path();
            scope.spawn(move || {
                for number in 0..10 {
                    let layout = Layout::open(&path).unwrap();
                    layout.set_name(&format!("name-{thread}-{number}"), image).unwrap();
                    layout.remove_name(&format!("name-{thread}-{}", number + 1)).unwrap();
                }
            });
        }
    });
    let names = store.layout().snapshots().unwrap();
    assert_eq!(names.len(), 81);
    store.layout().set_name("example", store.made.base).unwrap();
    assert_eq!(store.layout().snapshots().unwrap().len(), 81);
    assert_eq!(store.source().find(Some("example")).unwrap(), store.made.base.digest);
    assert_eq!(temporaries(&store.path()), 0);
}

/// Other tools write to the same index.
#[test]
fn foreign_entries_stay_when_a_name_is_set() {
    let store = Store::new();
    let path = store.path().join("index.json");
    let foreign = format!(
        r#"{{"annotations":{{"a":"b"}},"digest":"{}","mediaType":"x","size":3}}"#,
        Digest::of(b"foreign")
    );
    let text = format!(r#"{{"manifests":[{foreign}],"schemaVersion":2,"other":{{"kept":true}}}}"#);
    fs::write(&path, text).unwrap();
    store.layout().set_name("new", store.made.image).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(&foreign) && text.contains(r#""other":{"kept":true}"#), "{text}");
}

#[test]
fn locked_files_stay_and_old_leftovers_are_removed() {
    let store = Store::new();
    let layout = store.layout();
    let tmp = store.path().join("tmp");
    let mut held = layout.writer().unwrap();
    held.write(b"told").unwrap();
    for (name, age) in [("old.0.tmp", 100), ("new.0.tmp", 1), ("old.other", 100)] {
        let file = File::create(tmp.join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    for entry in fs::read_dir(&tmp).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().contains("/blob.") {
            let old = SystemTime::now() - Duration::from_secs(100);
            File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
        }
    }
    Layout::open(store.path()).unwrap();
    assert!(!tmp.join("old.0.tmp").exists());
    assert!(tmp.join("new.0.tmp").exists() && tmp.join("old.other").exists());
    assert!(held.commit().is_ok());
}

#[test]
fn only_valid_names_are_accepted() {
    for name in ["a", "A1", "0.b_c-d", &"x".repeat(128)] {
        assert!(is_name(name), "{name}");
    }
    for name in ["", ".", "..", "-a", "_a", "a/b", "a b", "ä", "a\n", &"x".repeat(129)] {
        assert!(!is_name(name), "{name}");
    }
}
