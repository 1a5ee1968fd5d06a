//! Exports and imports, and how other tools read the files.
//!
//! Requires the packages `tar`, `python3` and, as root, `mount`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oci_support;

use std::fs;
use std::path::Path;
use std::process::Command;

use supermachine::Image;
use supermachine_baker::{BakeError, InputError, StoreError};
use supermachine_snapshots::pack::{PackError, Source};
use supermachine_test_support::stores::{Sample, TestStore, names};

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// A store with a snapshot `web`, and its archive.
fn exported() -> (TestStore, std::path::PathBuf) {
    let place = TestStore::new();
    place.add("web", &Sample::new(1).disk(&[7, 8]));
    let file = place.path("web.tar");
    place.store.export("web", &file).unwrap();
    (place, file)
}

#[test]
fn export_and_import_give_the_same_snapshot() {
    let from = TestStore::new();
    let base = from.add("base", &Sample::new(1));
    let digest = from.add("web", &Sample::new(2).on(base).disk(&[7, 8, 9]));
    let file = from.path("web.tar");
    assert_eq!(from.store.export("web", &file).unwrap(), fs::metadata(&file).unwrap().len());
    let to = TestStore::new();
    let imported = to.store.import(&file, None).unwrap();
    assert_eq!((imported[0].name.as_str(), imported[0].digest), ("web", digest));
    assert_eq!(imported[0].present, 0);
    to.is_clean();
    let manifest = from.manifest(digest);
    for blob in manifest.blobs().map(|blob| blob.digest).chain([digest]) {
        assert_eq!(fs::read(from.blob(blob)).unwrap(), fs::read(to.blob(blob)).unwrap());
    }
    assert_eq!(to.blobs().len(), manifest.blobs().count() + 1);
    let again = to.store.import(&file, Some("twin")).unwrap();
    assert_eq!((again[0].copied, again[0].name.as_str()), (0, "twin"));
    assert_eq!(to.store.names().unwrap(), ["twin", "web"]);
}

#[test]
fn export_twice_gives_the_same_bytes_and_leaves_nothing_beside() {
    let (place, file) = exported();
    let elsewhere = TestStore::new();
    elsewhere.store.import(&file, None).unwrap();
    let again = elsewhere.path("again.tar");
    elsewhere.store.export("web", &again).unwrap();
    assert!(fs::read(&file).unwrap() == fs::read(&again).unwrap());
    assert_eq!(names(elsewhere.dir.path()), ["again.tar", "store"]);
    let mut piped = Vec::new();
    place.store.export_to("web", &mut piped, Path::new("pipe")).unwrap();
    assert!(piped == fs::read(&file).unwrap());
}

#[test]
fn blobs_in_an_archive_begin_at_pages() {
    let (place, file) = exported();
    let source = Source::open(&file).unwrap();
    let manifest = place.manifest(place.store.digest("web").unwrap());
    for blob in manifest.blobs() {
        let found = source.blob("blob", blob).unwrap();
        assert_eq!(found.offset % 4096, 0, "{}", blob.digest);
    }
}

#[test]
fn archive_starts_as_an_image() {
    let (place, file) = exported();
    let source = Source::open(&file).unwrap();
    let digest = source.find(None).unwrap();
    let image = Image::open(source, digest, &place.path("cache")).unwrap();
    image.mapped().unwrap();
    assert_eq!(digest, place.store.digest("web").unwrap());
}

#[test]
fn tar_and_python_read_archives_and_their_contents_fit_their_names() {
    let (place, file) = exported();
    let file = file.to_str().unwrap();
    let listed = output("tar", &["-tf", file]);
    let members: Vec<&str> = listed.lines().collect();
    assert_eq!(members[..2], ["oci-layout", "index.json"]);
    let script = "import hashlib, sys, tarfile
for member in tarfile.open(sys.argv[1]):
    print(member.name, member.mtime, member.uid, member.mode)
    name = member.name.split('/')
    if name[0] == 'blobs':
        found = hashlib.sha256(tarfile.open(sys.argv[1]).extractfile(member).read()).hexdigest()
        assert found == name[2], (found, name)";
    let told = output("python3", &["-c", script, file]);
    let expected: Vec<String> = members.iter().map(|name| format!("{name} 0 0 420")).collect();
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    let folder = place.path("unpacked");
    fs::create_dir(&folder).unwrap();
    output("tar", &["-xf", file, "-C", folder.to_str().unwrap()]);
    let to = TestStore::new();
    to.store.import(&folder, None).unwrap();
    to.is_clean();
}

#[test]
fn import_takes_all_snapshots_of_a_store_or_the_named_one() {
    let from = TestStore::new();
    for (name, seed) in [("a", 1), ("b", 2)] {
        from.add(name, &Sample::new(seed));
    }
    let to = TestStore::new();
    assert_eq!(to.store.import(from.store.dir(), None).unwrap().len(), 2);
    assert_eq!(to.store.names().unwrap(), ["a", "b"]);
    let one = TestStore::new();
    one.store.import(from.store.dir(), Some("b")).unwrap();
    assert_eq!(one.store.names().unwrap(), ["b"]);
    let error = one.store.import(from.store.dir(), Some("c")).unwrap_err();
    assert!(
        matches!(
            error,
            BakeError::Store(StoreError::Pack { source: PackError::Ambiguous { count: 2, .. } })
        ),
        "{error:?}"
    );
    let empty = TestStore::new();
    let error = one.store.import(empty.store.dir(), None).unwrap_err();
    assert!(
        matches!(error, BakeError::Store(StoreError::Pack { source: PackError::NotAPack { .. } })),
        "{error:?}"
    );
}

#[test]
fn import_repairs_a_damaged_blob_of_the_store() {
    let (place, file) = exported();
    let manifest = place.manifest(place.store.digest("web").unwrap());
    for (at, blob) in manifest.blobs().enumerate() {
        damage(&place.blob(blob.digest), |bytes| bytes[at] ^= 1);
    }
    assert_ne!(place.store.verify("web").unwrap().problems.len(), 0);
    place.store.import(&file, None).unwrap();
    place.is_clean();
}

#[test]
fn import_of_what_is_damaged_names_the_part_and_gives_no_name() {
    let (from, file) = exported();
    let whole = fs::read(&file).unwrap();
    let source = Source::open(&file).unwrap();
    let manifest = from.manifest(from.store.digest("web").unwrap());
    let parts = [
        ("config", manifest.config),
        ("state", manifest.state),
        ("index", manifest.index),
        ("chunks", manifest.chunks[0]),
    ];
    for (part, blob) in parts {
        let at = source.blob(part, &blob).unwrap().offset + blob.size / 2;
        damage(&file, |bytes| bytes[usize::try_from(at).unwrap()] ^= 0x40);
        let to = TestStore::new();
        match to.store.import(&file, None).unwrap_err() {
            BakeError::Store(StoreError::Pack {
                source: PackError::Damaged { section, digest, .. },
            }) => {
                assert_eq!((section, digest), (part, blob.digest));
            }
            other => panic!("{part}: {other:?}"),
        }
        assert_eq!(to.store.names().unwrap(), [""; 0]);
        assert_eq!(names(&to.store.dir().join("tmp")), [""; 0]);
        fs::write(&file, &whole).unwrap();
    }
}

#[test]
fn import_of_a_cut_archive_fails_wherever_it_is_cut() {
    let (from, file) = exported();
    let whole = fs::read(&file).unwrap();
    for length in (0..whole.len() - 1024).step_by(3001).chain([0, 511, 512, 1024]) {
        fs::write(&file, &whole[..length]).unwrap();
        let error = from.store.import(&file, Some("cut")).unwrap_err();
        assert!(matches!(error, BakeError::Store(StoreError::Pack { .. })), "{length}: {error:?}");
    }
    assert_eq!(from.store.names().unwrap(), ["web"]);
}

#[test]
fn import_without_a_listed_blob_names_it() {
    let from = TestStore::new();
    let digest = from.add("web", &Sample::new(1));
    let gone = from.manifest(digest).chunks[0].digest;
    fs::remove_file(from.blob(gone)).unwrap();
    match TestStore::new().store.import(from.store.dir(), None).unwrap_err() {
        BakeError::Store(StoreError::Pack { source: PackError::MissingBlob { digest, .. } }) => {
            assert_eq!(digest, gone);
        }
        other => panic!("{other:?}"),
    }
    fs::write(from.store.dir().join("index.json"), "{").unwrap();
    let error = TestStore::new().store.import(from.store.dir(), None).unwrap_err();
    assert!(
        matches!(
            error,
            BakeError::Store(StoreError::Pack {
                source: PackError::Json { section: "index.json", .. }
            })
        ),
        "{error:?}"
    );
}

#[test]
fn import_of_an_image_says_that_it_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let image = oci_support::Image::new("amd64");
    oci_support::write_files(dir.path(), &image.layout(Some("v1")));
    let error = TestStore::new().store.import(dir.path(), None).unwrap_err();
    assert!(matches!(error, BakeError::Input(InputError::NotASnapshot { .. })), "{error:?}");
    assert!(error.to_string().contains("an image"), "{error}");
}

#[test]
fn snapshot_without_a_name_needs_one() {
    let from = TestStore::new();
    let digest = from.add("web", &Sample::new(1));
    let size = from.store.blob_size(digest).unwrap();
    let index = format!(r#"{{"manifests":[{{"digest":"{digest}","size":{size}}}]}}"#);
    fs::write(from.store.dir().join("index.json"), index).unwrap();
    let to = TestStore::new();
    let error = to.store.import(from.store.dir(), None).unwrap_err();
    assert!(matches!(error, BakeError::Input(InputError::Nameless { .. })), "{error:?}");
    to.store.import(from.store.dir(), Some("mine")).unwrap();
    assert_eq!(to.store.names().unwrap(), ["mine"]);
}

#[test]
fn damaged_snapshot_is_not_exported() {
    let (place, file) = exported();
    fs::remove_file(&file).unwrap();
    let blob = place.manifest(place.store.digest("web").unwrap()).chunks[0].digest;
    damage(&place.blob(blob), |bytes| bytes[5] ^= 1);
    match place.store.export("web", &file).unwrap_err() {
        BakeError::Store(StoreError::Pack { source: PackError::Damaged { digest, .. } }) => {
            assert_eq!(digest, blob)
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(names(place.dir.path()), ["store"]);
}

/// A file system of 2 MiB, unmounted on drop.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        output("mount", &["-t", "tmpfs", "-o", "size=2m", "none", dir.path().to_str().unwrap()]);
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        output("umount", &[self.0.path().to_str().unwrap()]);
    }
}

#[test]
fn full_disk_fails_an_import_and_leaves_what_was_there() {
    let from = TestStore::new();
    from.add("small", &Sample::new(1));
    from.add("large", &Sample::new(2).large(3, 48));
    let small = Small::new();
    let dir = tempfile::tempdir_in(small.0.path()).unwrap();
    let to = TestStore::in_dir(dir);
    to.store.import(from.store.dir(), Some("small")).unwrap();
    let error = to.store.import(from.store.dir(), Some("large")).unwrap_err();
    match &error {
        BakeError::Store(StoreError::Pack { source: PackError::Io { source, .. } }) => {
            assert_eq!(source.raw_os_error(), Some(libc::ENOSPC), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(to.store.names().unwrap(), ["small"]);
    to.is_clean();
    assert_eq!(names(&to.store.dir().join("tmp")), [""; 0]);
    drop(to);
}
