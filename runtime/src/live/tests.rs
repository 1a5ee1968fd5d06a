//! Snapshots from captures that a worker sends, in a store of synthetic packs.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use supermachine_formats::snapshot::Stage;
use tempfile::TempDir;

use super::*;
use crate::image::testing::sample_image;
use crate::machine::testing::{STOPPED, capture, captured_as};
use supermachine_test_support::packs::{self as samples, PAGE};

/// A store with an image.
struct Home {
    dir: TempDir,
    image: Image,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (_, image) = sample_image(dir.path());
        Self { dir, image }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// The blobs and temporary files of the store, and its names.
    fn listing(&self) -> (BTreeSet<PathBuf>, Vec<Option<String>>) {
        let files = |folder: &str| {
            let entries = fs::read_dir(self.store().join(folder)).unwrap();
            entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
        };
        let names = self.image.source().snapshots().unwrap().into_iter().map(|it| it.name);
        (["blobs/sha256", "tmp"].into_iter().flat_map(files).collect(), names.collect())
    }
}

#[test]
fn capture_of_a_worker_becomes_a_child_in_the_store() {
    let home = Home::new();
    let parent = home.image.snapshot();
    let mut state = Snapshot::clone(parent);
    state.arch.set_realtime_ns(99);
    // A worker has no say in these.
    state.workload = None;
    state.machine = parent.machine.clone();
    let mut before = [0; PAGE];
    home.image.mapped().unwrap().memory.read_page(1, &mut before).unwrap();
    let machine = captured_as(Some(capture(state, &[(1, before), (7, samples::page(50))])));
    let taken = take(&machine, Some(&home.image), "live").unwrap();
    assert_eq!(taken.stopped.total(), STOPPED);
    let found = taken.image.snapshot();
    assert_eq!(
        (found.machine.stage, found.machine.parent),
        (Stage::Live, Some(home.image.digest()))
    );
    assert_eq!((&found.workload, found.arch.realtime_ns()), (&parent.workload, 99));
    let memory = &taken.image.mapped().unwrap().memory;
    for (page, expected) in [(1, before), (7, samples::page(50))] {
        let mut content = [0; PAGE];
        memory.read_page(page, &mut content).unwrap();
        assert!(content == expected, "page {page}");
    }
    // Only the chunk of the page that changed is new.
    assert_eq!(taken.image.pack().unwrap().index.blobs.last().unwrap().chunks.len(), 1);
    assert_eq!(Image::from_store(home.store(), "live").unwrap().digest(), taken.image.digest());
}

/// Whether a page of an image is full of these bytes.
fn has(image: &Image, page: u64, expected: &[u8; PAGE]) -> bool {
    let mut content = [0; PAGE];
    image.mapped().unwrap().memory.read_page(page, &mut content).unwrap();
    content == *expected
}

#[test]
fn fork_of_a_fork_has_the_pages_of_both_and_stores_nothing() {
    let home = Home::new();
    home.image.mapped().unwrap();
    let before = home.listing();
    let state = |image: &Image| Snapshot::clone(image.snapshot());
    let machine = captured_as(Some(capture(
        state(&home.image),
        &[(1, samples::page(50)), (7, samples::page(51))],
    )));
    let first = fork(&machine, &home.image).unwrap();
    let machine = captured_as(Some(capture(state(&first), &[(7, samples::page(52))])));
    let second = fork(&machine, &first).unwrap();
    assert!(has(&first, 1, &samples::page(50)) && has(&first, 7, &samples::page(51)));
    assert!(has(&second, 1, &samples::page(50)) && has(&second, 7, &samples::page(52)));
    assert_eq!(second.mapped().unwrap().memory.overlays.len(), 2);
    assert_eq!(home.listing(), before);
}

#[test]
fn snapshot_of_a_fork_holds_what_was_written_before_it() {
    let home = Home::new();
    let state = |image: &Image| Snapshot::clone(image.snapshot());
    let machine = captured_as(Some(capture(
        state(&home.image),
        &[(1, samples::page(50)), (7, samples::page(51))],
    )));
    let fork = fork(&machine, &home.image).unwrap();
    let machine = captured_as(Some(capture(state(&fork), &[(7, samples::page(52))])));
    let taken = take(&machine, Some(&fork), "live").unwrap().image;
    assert_eq!(taken.snapshot().machine.parent, Some(home.image.digest()));
    assert!(has(&taken, 1, &samples::page(50)) && has(&taken, 7, &samples::page(52)));
    let mut content = [0; PAGE];
    for page in [0, 2, 8] {
        home.image.mapped().unwrap().memory.read_page(page, &mut content).unwrap();
        assert!(has(&taken, page, &content), "page {page}");
    }
}

#[test]
fn worker_that_dies_or_lies_leaves_nothing_in_the_store() {
    let home = Home::new();
    home.image.mapped().unwrap();
    let before = home.listing();
    let error = take(&captured_as(None), Some(&home.image), "live").unwrap_err();
    assert!(matches!(error, Error::Worker { source: WorkerError::Gone }), "{error:?}");
    let lies: [fn(&mut Snapshot); 3] = [
        |state| state.machine.vcpus += 1,
        |state| state.machine.memory_size *= 2,
        |state| state.disks.clear(),
    ];
    for lie in lies {
        let mut state = Snapshot::clone(home.image.snapshot());
        lie(&mut state);
        let machine = captured_as(Some(capture(state, &[(7, samples::page(50))])));
        let error = take(&machine, Some(&home.image), "live").unwrap_err();
        assert!(matches!(error, Error::Worker { source: WorkerError::OtherMachine }), "{error:?}");
    }
    assert_eq!(home.listing(), before);
}

#[test]
fn snapshot_of_a_single_file_or_with_an_impossible_name_captures_nothing() {
    let home = Home::new();
    let state = Snapshot::clone(home.image.snapshot());
    let machine = captured_as(Some(capture(state, &[])));
    let error = take(&machine, Some(&home.image), "../x").unwrap_err();
    assert!(matches!(error, Error::Invalid { source: InvalidInput::SnapshotName { .. } }));
    let path = home.dir.path().join("example.tar");
    fs::write(&path, samples::archive(&home.store())).unwrap();
    let source = Source::open(&path).unwrap();
    let cache = home.dir.path().join("cache");
    let image = Image::open(source, home.image.digest(), &cache).unwrap();
    let error = take(&machine, Some(&image), "live").unwrap_err();
    assert!(
        matches!(&error, Error::Snapshot { source: SnapshotError::NotAStore { path: found } } if *found == path),
        "{error:?}"
    );
    // It is still there.
    take(&machine, Some(&home.image), "live").unwrap();
}
