//! Verification finds every kind of damage and its location.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use supermachine_snapshots::mapped::FormCheck;
use supermachine_snapshots::pack::PackError;
use supermachine_test_support::stores::{Sample, TestStore, names};

fn sample() -> (TestStore, supermachine_formats::Digest) {
    let place = TestStore::new();
    let base = place.put(&Sample::new(1)).digest;
    let digest = place.add("web", &Sample::new(2).on(base).disk(&[7, 8]));
    (place, digest)
}

/// Flips a bit, and preserves the file's size and time.
fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn undamaged_snapshot_has_no_problems() {
    let (place, digest) = sample();
    let verified = place.store.verify("web").unwrap();
    assert!(verified.problems.is_empty(), "{:?}", verified.problems);
    assert_eq!((verified.digest, verified.chunks), (digest, 8));
    assert_eq!(verified.mapped, Some(FormCheck::Absent));
}

#[test]
fn damage_to_any_part_names_section_and_blob() {
    let (place, digest) = sample();
    let manifest = place.manifest(digest);
    let small = [("config", manifest.config), ("state", manifest.state), ("index", manifest.index)];
    let chunks = manifest.chunks.iter().map(|blob| ("chunks", *blob));
    for (part, blob) in small.into_iter().chain(chunks) {
        let path = place.blob(blob.digest);
        let whole = fs::read(&path).unwrap();
        flip(&path, blob.size - 1);
        let problems = place.store.verify("web").unwrap().problems;
        assert!(
            problems.iter().any(|problem| matches!(problem,
                PackError::Damaged { section, digest, .. }
                    if *section == part && *digest == blob.digest)),
            "{part}: {problems:?}"
        );
        let named = problems.iter().any(|problem| matches!(problem, PackError::Chunk { .. }));
        assert_eq!(named, part == "chunks", "{problems:?}");
        fs::write(&path, &whole[1..]).unwrap();
        let problems = place.store.verify("web").unwrap().problems;
        assert!(matches!(problems[0], PackError::Size { section, .. } if section == part));
        fs::remove_file(&path).unwrap();
        let problems = place.store.verify("web").unwrap().problems;
        assert!(matches!(problems[0], PackError::MissingBlob { section, .. } if section == part));
        fs::write(&path, whole).unwrap();
    }
    flip(&place.blob(digest), 3);
    let problems = place.store.verify("web").unwrap().problems;
    assert!(matches!(problems[..], [PackError::Damaged { section: "manifest", .. }]));
}

#[test]
fn damaged_mapped_form_is_removed_and_made_again() {
    let (place, _) = sample();
    let cache = place.path("cache");
    place.store.image("web").unwrap().mapped().unwrap();
    assert_eq!(place.store.verify("web").unwrap().mapped, Some(FormCheck::Whole));
    for folder in ["memory", "overlays", "disks"] {
        let dir = cache.join(folder);
        let name = names(&dir).into_iter().find(|name| name.len() == 64).unwrap();
        let (path, stamp) = (dir.join(&name), dir.join(format!("{name}.stamp")));
        for at in [100, 65_536 + 100] {
            flip(&path, at);
            restamp(&path, &stamp);
            let verified = place.store.verify("web").unwrap();
            assert_eq!(verified.mapped, Some(FormCheck::Removed), "{folder} {at}");
            assert!(verified.problems.is_empty());
            assert!(!path.exists());
            place.store.image("web").unwrap().mapped().unwrap();
            assert_eq!(place.store.verify("web").unwrap().mapped, Some(FormCheck::Whole));
        }
    }
}

/// Hides a file's change from stamps, like failing memory.
fn restamp(path: &Path, stamp: &Path) {
    use std::os::unix::fs::MetadataExt;
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(5)).unwrap();
    let found = fs::metadata(path).unwrap();
    let text = format!(
        "{} {} {} {}.{:09} {}.{:09}",
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec()
    );
    fs::write(stamp, text).unwrap();
}
