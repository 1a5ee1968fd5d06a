//! Disks that fill up: the error names the path, nothing incomplete stays, and the next run with room
//! succeeds.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod oci_support;

use std::error::Error as _;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use oci_support::server::Server;
use oci_support::{Image, options, source, write_files};
use supermachine_baker::oci::{BlobStore, Error, OciImage, fetch};
use supermachine_baker::{OciImageBuilder, Store};
use supermachine_formats::Digest;
use supermachine_test_support::small_disk::{SmallDisk, with_small_disk};
use supermachine_test_support::stores::{Sample, TestStore};

const KIB: u64 = 1 << 10;

/// The error and its causes, one on each line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text += &format!("\n{source}");
        next = source.source();
    }
    text
}

/// Asserts that all files are whole: blobs with the right content, or small files that are replaced at
/// once. Locks are empty.
fn assert_whole(disk: &SmallDisk) {
    for path in disk.files() {
        let content = fs::read(&path).unwrap();
        let inside = path.strip_prefix(disk.dir()).unwrap();
        let parts: Vec<_> = inside.iter().map(|part| part.to_str().unwrap()).collect();
        assert!(!parts.contains(&"tmp") || content.is_empty(), "{path:?} is left");
        if parts.contains(&"blobs") {
            assert_eq!(Digest::of(&content).hex(), *parts.last().unwrap(), "{path:?}");
        }
    }
}

/// Runs `act` on disks that grow until it succeeds. Every failure must name the full disk.
fn grow<T>(
    disk: &SmallDisk,
    step: u64,
    act: impl Fn(&Path) -> Result<T, Box<dyn std::error::Error>>,
) -> T {
    for number in 1..500 {
        let size = number * step;
        disk.resize(size);
        let folder = disk.dir().join("run");
        let error = match act(&folder) {
            Ok(done) => {
                assert!(number > 4, "it fails only {number} times");
                return done;
            }
            Err(error) => causes(error.as_ref()),
        };
        let full = format!("disk full: {}", folder.display());
        assert!(error.contains(&full), "{size}: {error}");
        assert!(error.ends_with("No space left on device (os error 28)"), "{size}: {error}");
        assert_whole(disk);
        // With room, the same folder serves.
        if number % 8 == 0 {
            disk.resize(64 << 20);
            act(&folder).unwrap();
        }
        fs::remove_dir_all(&folder).unwrap();
    }
    panic!("it fails with all that room");
}

fn pull(folder: &Path, text: &str) -> Result<OciImage, Error> {
    fetch(&source(text), &BlobStore::open(folder)?, &options())
}

#[test]
fn pull_onto_a_full_disk_names_it_and_leaves_nothing_incomplete() {
    let test = "pull_onto_a_full_disk_names_it_and_leaves_nothing_incomplete";
    with_small_disk(64 * KIB, test, |disk| {
        let image = Image::new("amd64");
        let server = Server::serving(&image);
        let pulled = grow(disk, 24 * KIB, |folder| Ok(pull(folder, &server.reference())?));
        assert_eq!(pulled.layers.len(), 3);
    });
}

#[test]
fn archive_onto_a_full_disk_names_it_and_leaves_nothing_incomplete() {
    let test = "archive_onto_a_full_disk_names_it_and_leaves_nothing_incomplete";
    with_small_disk(64 * KIB, test, |disk| {
        let dir = tempfile::tempdir().unwrap();
        let layout = dir.path().join("layout");
        write_files(&layout, &Image::new("amd64").layout(None));
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_dir_all(".", &layout).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        gzip.write_all(&archive.into_inner().unwrap()).unwrap();
        let path = dir.path().join("image.tar.gz");
        fs::write(&path, gzip.finish().unwrap()).unwrap();
        let text = format!("oci-archive:{}", path.display());
        let pulled = grow(disk, 48 * KIB, |folder| Ok(pull(folder, &text)?));
        assert_eq!(pulled.layers.len(), 3);
    });
}

#[test]
fn root_file_system_on_a_full_disk_names_it_and_leaves_nothing_incomplete() {
    let test = "root_file_system_on_a_full_disk_names_it_and_leaves_nothing_incomplete";
    with_small_disk(64 * KIB, test, |disk| {
        let dir = tempfile::tempdir().unwrap();
        write_files(dir.path(), &Image::new("amd64").layout(None));
        let text = format!("oci:{}", dir.path().display());
        grow(disk, 64 * KIB, |folder| {
            let store = Store::open_with_cache(folder.join("store"), folder.join("cache"))?;
            let builder = OciImageBuilder::new(&text)?.fetch_options(options());
            Ok(builder.compression_level(1).fetch(&store)?)
        });
    });
}

#[test]
fn export_onto_a_full_disk_names_it_and_leaves_no_file() {
    with_small_disk(64 * KIB, "export_onto_a_full_disk_names_it_and_leaves_no_file", |disk| {
        let place = TestStore::new();
        place.add("large", &Sample::new(2).large(3, 48));
        let path: PathBuf = disk.dir().join("large.tar");
        let error = place.store.export("large", &path).unwrap_err();
        assert_eq!(error.to_string(), format!("disk full: {}", path.display()));
        assert!(error.source().is_some());
        assert_eq!(disk.files(), [""; 0].map(PathBuf::from));
        disk.resize(64 << 20);
        place.store.export("large", &path).unwrap();
        assert_eq!(disk.files(), [path]);
    });
}
