//! Opening snapshots of a store that is made by hand.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Barrier;
use std::time::{Duration, SystemTime};

use supermachine_formats::snapshot::baseline::{Baseline, Processor};
use supermachine_formats::snapshot::memory::{Memory, PAGE_SIZE, runs_of};
use supermachine_formats::snapshot::x86_64::{Clock, RunState, Vcpu};
use supermachine_formats::snapshot::{
    Architecture, Disk, HEADER_SIZE, HypervisorFamily, Machine, Section, Snapshot, SnapshotError,
    Stage, TABLE_ENTRY_SIZE, WorkingSet,
};
use tempfile::TempDir;

use super::*;
use crate::machine::{boot_slots, reset_ioapic, reset_serial};

const MEMORY: u64 = 1 << 20;
const PAGE: usize = PAGE_SIZE as usize;
/// Tells a test that it runs in a process of its own, and what it is to open.
const OPEN: &str = "SUPERMACHINE_TEST_OPEN";

/// A store and a cache.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["store/blobs/sha256", "store/names", "cache"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        Self { dir }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn blob(&self, digest: Digest) -> PathBuf {
        Blobs::new(&self.store()).path(&digest)
    }

    fn mapped(&self, digest: Digest) -> PathBuf {
        self.cache().join("mapped").join(digest.hex())
    }

    fn put(&self, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        fs::write(self.blob(digest), content).unwrap();
        digest
    }

    /// A snapshot whose own pages are each filled with one byte.
    fn snapshot(&self, parent: Option<Digest>, own: &[(u64, u8)], zeroed: &[u64]) -> Snapshot {
        let pages: Vec<u8> = own.iter().flat_map(|(_, byte)| [*byte; PAGE]).collect();
        Snapshot {
            architecture: Architecture::X86_64,
            hypervisor: HypervisorFamily::Any,
            machine: Machine { stage: Stage::Boot, parent, memory_size: MEMORY, vcpus: 1 },
            workload: None,
            processor: Processor::of(Baseline::V3),
            vcpus: vec![Vcpu {
                cpuid: Vec::new(),
                registers: None,
                special: None,
                run_state: RunState::Running,
                lapic: None,
                xsave: None,
                xcr0: None,
                debug: None,
                events: None,
                msrs: Vec::new(),
            }],
            ioapic: reset_ioapic(),
            clock: Clock { monotonic_ns: 0, realtime_ns: 0, tsc_khz: 0 },
            slots: boot_slots(),
            serial: reset_serial(),
            disks: Vec::new(),
            memory: Memory {
                blob: self.put(&pages),
                own: runs_of(own.iter().map(|(page, _)| *page)),
                zeroed: runs_of(zeroed.iter().copied()),
            },
            working_set: WorkingSet::default(),
        }
    }

    fn plain(&self) -> Digest {
        self.put(&self.snapshot(None, &[(1, 7)], &[]).encode())
    }

    fn with_disk(&self) -> (Digest, Digest) {
        let mut snapshot = self.snapshot(None, &[(1, 7)], &[]);
        let disk = self.put(b"a disk");
        snapshot.disks = vec![Disk { blob: disk, size: 6 }];
        (self.put(&snapshot.encode()), disk)
    }

    fn open(&self, digest: Digest) -> Result<Image, Error> {
        Image::open(&Blobs::new(&self.store()), digest, &self.cache())
    }

    /// What is in the folder of a snapshot's mapped form.
    fn listing(&self, digest: Digest) -> Vec<String> {
        let entries = fs::read_dir(self.mapped(digest)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn first_byte(image: &Image, page: u64) -> u8 {
    let mut bytes = [0; PAGE];
    image.memory().read_exact_at(&mut bytes, page * PAGE_SIZE).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "page {page} is mixed");
    bytes[0]
}

fn inode(image: &Image) -> u64 {
    image.memory().metadata().unwrap().ino()
}

/// Flips a bit, and sees that the time of the last write moves even where clocks are coarse.
fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
}

/// Runs one test again in a process of its own.
fn child(test: &str, dir: &Path, cache: &Path, open: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("image::tests::{test}"), "--nocapture"]);
    command.current_dir(dir).env("XDG_CACHE_HOME", cache).env(OPEN, open);
    command
}

fn assert_passed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

#[test]
fn a_childs_pages_lie_on_top_of_its_parents() {
    let place = Place::new();
    let parent =
        place.put(&place.snapshot(None, &[(0, 1), (1, 2), (2, 3), (255, 4)], &[]).encode());
    let middle = place.put(&place.snapshot(Some(parent), &[(1, 5)], &[2]).encode());
    let child = place.put(&place.snapshot(Some(middle), &[(2, 6), (9, 8)], &[0]).encode());
    let image = place.open(child).unwrap();
    assert_eq!(image.memory().metadata().unwrap().len(), MEMORY);
    let expected = [(0, 0), (1, 5), (2, 6), (3, 0), (9, 8), (255, 4)];
    for (page, byte) in expected {
        assert_eq!(first_byte(&image, page), byte, "page {page}");
    }
    assert_eq!(image.digest(), child);
    assert_eq!(image.snapshot().machine.parent, Some(middle));
    // The parent's own form is not touched by the child's.
    let image = place.open(parent).unwrap();
    assert_eq!([0, 1, 2, 255].map(|page| first_byte(&image, page)), [1, 2, 3, 4]);
}

#[test]
fn pages_beyond_one_piece_are_all_written() {
    let place = Place::new();
    let own: Vec<(u64, u8)> = (0..256).map(|page| (page, u8::try_from(page).unwrap())).collect();
    let digest = place.put(&place.snapshot(None, &own, &[]).encode());
    let image = place.open(digest).unwrap();
    assert!(own.iter().all(|(page, byte)| first_byte(&image, *page) == *byte));
}

#[test]
fn a_mapped_form_is_made_once() {
    let place = Place::new();
    let (digest, _) = place.with_disk();
    let first = place.open(digest).unwrap();
    let second = place.open(digest).unwrap();
    assert_eq!(inode(&first), inode(&second));
    assert_eq!(place.listing(digest), ["lock", "memory", "stamp"]);
    assert_eq!(second.disks().len(), 1);
}

#[test]
fn a_mapped_form_that_was_damaged_is_made_again() {
    let damages: [fn(&Path); 7] = [
        |dir| flip(&dir.join("memory"), PAGE_SIZE),
        |dir| File::options().write(true).open(dir.join("memory")).unwrap().set_len(9).unwrap(),
        |dir| fs::remove_file(dir.join("memory")).unwrap(),
        |dir| fs::write(dir.join("stamp"), b"garbage").unwrap(),
        |dir| fs::write(dir.join("stamp"), [0xff; 99]).unwrap(),
        |dir| fs::write(dir.join("stamp"), b"").unwrap(),
        |dir| fs::remove_file(dir.join("stamp")).unwrap(),
    ];
    for (at, damage) in damages.into_iter().enumerate() {
        let place = Place::new();
        let digest = place.plain();
        // Held open, so that its inode number is not given out again.
        let before = place.open(digest).unwrap();
        damage(&place.mapped(digest));
        let image = place.open(digest).unwrap();
        assert_ne!(inode(&image), inode(&before), "damage {at} goes unnoticed");
        assert_eq!(first_byte(&image, 1), 7, "damage {at}");
        assert_eq!(inode(&place.open(digest).unwrap()), inode(&image), "damage {at}");
    }
}

#[test]
fn what_a_killed_maker_left_is_removed() {
    let place = Place::new();
    let digest = place.plain();
    fs::create_dir_all(place.mapped(digest)).unwrap();
    fs::write(place.mapped(digest).join("memory.1.0.tmp"), b"half").unwrap();
    place.open(digest).unwrap();
    assert_eq!(place.listing(digest), ["lock", "memory", "stamp"]);
}

#[test]
fn a_flipped_byte_of_the_state_names_its_section() {
    for (entry, section) in Section::ALL.into_iter().enumerate() {
        let place = Place::new();
        let digest = place.plain();
        let state = fs::read(place.blob(digest)).unwrap();
        let at = HEADER_SIZE + entry * TABLE_ENTRY_SIZE + 4;
        let offset = u32::from_le_bytes(state[at..at + 4].try_into().unwrap());
        flip(&place.blob(digest), offset.into());
        match place.open(digest) {
            Err(Error::Snapshot { snapshot, source: SnapshotError::Digest { section: found } }) => {
                assert_eq!((snapshot, found), (digest, section.name()));
            }
            other => panic!("{section:?}: {other:?}"),
        }
        assert_eq!(place.listing(digest), ["lock"]);
    }
}

#[test]
fn a_state_file_in_anothers_place_is_refused() {
    let place = Place::new();
    let digest = place.plain();
    let other = place.snapshot(None, &[(3, 3)], &[]).encode();
    fs::write(place.blob(digest), &other).unwrap();
    match place.open(digest) {
        Err(Error::DamagedBlob { what: "state", found, .. }) => {
            assert_eq!(found, Digest::of(&other));
        }
        result => panic!("{result:?}"),
    }
}

#[test]
fn a_truncated_state_file_is_refused() {
    let place = Place::new();
    let digest = place.plain();
    let state = fs::read(place.blob(digest)).unwrap();
    for length in [0, 7, HEADER_SIZE, state.len() / 2, state.len() - 1] {
        fs::write(place.blob(digest), &state[..length]).unwrap();
        let result = place.open(digest);
        assert!(matches!(result, Err(Error::Snapshot { .. })), "{length}: {result:?}");
    }
}

#[test]
fn a_flipped_byte_of_the_pages_is_found_and_leaves_nothing() {
    let place = Place::new();
    let snapshot = place.snapshot(None, &[(1, 7)], &[]);
    let digest = place.put(&snapshot.encode());
    flip(&place.blob(snapshot.memory.blob), 4095);
    let result = place.open(digest);
    assert!(matches!(result, Err(Error::DamagedBlob { what: "pages", .. })), "{result:?}");
    assert_eq!(place.listing(digest), ["lock"]);
}

#[test]
fn pages_that_are_cut_or_too_many_are_refused() {
    for length in [0, 4095, 8192] {
        let place = Place::new();
        let snapshot = place.snapshot(None, &[(1, 7)], &[]);
        let digest = place.put(&snapshot.encode());
        let blob = place.blob(snapshot.memory.blob);
        File::options().write(true).open(blob).unwrap().set_len(length).unwrap();
        let result = place.open(digest);
        assert!(matches!(result, Err(Error::MissingBlob { .. })), "{length}: {result:?}");
    }
}

#[test]
fn a_damaged_disk_is_found_at_first_and_later() {
    let place = Place::new();
    let (digest, disk) = place.with_disk();
    flip(&place.blob(disk), 0);
    let result = place.open(digest);
    assert!(matches!(result, Err(Error::DamagedBlob { what: "disk", .. })), "{result:?}");
    flip(&place.blob(disk), 0);
    place.open(digest).unwrap();
    flip(&place.blob(disk), 0);
    let result = place.open(digest);
    assert!(matches!(result, Err(Error::DamagedBlob { what: "disk", .. })), "{result:?}");
}

#[test]
fn a_missing_file_is_named_by_what_it_holds() {
    let place = Place::new();
    let (digest, disk) = place.with_disk();
    let pages = place.open(digest).unwrap().snapshot().memory.blob;
    fs::remove_dir_all(place.cache()).unwrap();
    for (blob, name) in [(digest, "state"), (disk, "disk"), (pages, "pages")] {
        let (here, away) = (place.blob(blob), place.dir.path().join("away"));
        fs::rename(&here, &away).unwrap();
        match place.open(digest) {
            Err(Error::MissingBlob { what, path }) => assert_eq!((what, &path), (name, &here)),
            result => panic!("{name}: {result:?}"),
        }
        fs::rename(&away, &here).unwrap();
    }
    place.open(digest).unwrap();
}

#[test]
fn a_missing_parent_is_told() {
    let place = Place::new();
    let parent = Digest::of(b"gone");
    let digest = place.put(&place.snapshot(Some(parent), &[], &[]).encode());
    match place.open(digest) {
        Err(Error::MissingBlob { what: "state", path }) => assert_eq!(path, place.blob(parent)),
        result => panic!("{result:?}"),
    }
}

#[test]
fn a_parent_with_other_memory_is_refused() {
    let place = Place::new();
    let mut parent = place.snapshot(None, &[], &[]);
    parent.machine.memory_size = 2 * MEMORY;
    let parent = place.put(&parent.encode());
    let digest = place.put(&place.snapshot(Some(parent), &[], &[]).encode());
    let result = place.open(digest);
    assert!(matches!(result, Err(Error::Mismatch { wanted: 1, found: 2, .. })), "{result:?}");
}

#[test]
fn a_chain_of_parents_may_be_long_but_not_endless() {
    let place = Place::new();
    let mut digest = place.put(&place.snapshot(None, &[(0, 1)], &[]).encode());
    for byte in 2..=64 {
        digest = place.put(&place.snapshot(Some(digest), &[(0, byte)], &[]).encode());
    }
    assert_eq!(first_byte(&place.open(digest).unwrap(), 0), 64);
    let digest = place.put(&place.snapshot(Some(digest), &[], &[]).encode());
    match place.open(digest) {
        Err(Error::TooManyAncestors { snapshot, limit: 64 }) => assert_eq!(snapshot, digest),
        result => panic!("{result:?}"),
    }
}

#[test]
fn many_threads_make_the_form_once() {
    const THREADS: usize = 8;
    let place = Place::new();
    let (digest, _) = place.with_disk();
    let barrier = Barrier::new(THREADS);
    let open = || {
        barrier.wait();
        inode(&place.open(digest).unwrap())
    };
    let inodes: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(inodes.iter().all(|inode| *inode == inodes[0]), "{inodes:?}");
    assert_eq!(place.listing(digest), ["lock", "memory", "stamp"]);
}

#[test]
fn many_processes_make_the_form_once() {
    if let Some(path) = std::env::var_os(OPEN) {
        println!("inode={}", inode(&Image::from_snapshot(path).unwrap()));
        return;
    }
    let place = Place::new();
    let (digest, _) = place.with_disk();
    let name = place.store().join("names/web");
    fs::write(&name, format!("{digest}\n")).unwrap();
    let here = place.dir.path();
    let start = |_| {
        let mut command = child("many_processes_make_the_form_once", here, &place.cache(), &name);
        command.stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..4).map(start).collect();
    let mut inodes = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_passed(&output);
        let text = String::from_utf8(output.stdout).unwrap();
        let (_, rest) = text.split_once("inode=").unwrap();
        inodes.push(rest.split_whitespace().next().unwrap().to_owned());
    }
    assert!(inodes.iter().all(|inode| *inode == inodes[0]), "{inodes:?}");
}

#[test]
fn a_name_is_found_from_any_working_directory() {
    if let Some(path) = std::env::var_os(OPEN) {
        Image::from_snapshot(path).unwrap();
        return;
    }
    let place = Place::new();
    let digest = place.plain();
    fs::write(place.store().join("names/web"), format!("{digest}\n")).unwrap();
    fs::create_dir(place.store().join("names/sub")).unwrap();
    let cases = [
        ("", "store/names/web"),
        ("", "./store/names/web"),
        ("store", "names/web"),
        ("store", "./names/web"),
        ("store/names", "web"),
        ("store/names", "./web"),
        ("store/names", "../names/web"),
        ("store/names/sub", "../web"),
        ("store/blobs", "../names/sub/../web"),
    ];
    for (dir, path) in cases {
        let dir = place.dir.path().join(dir);
        let test = "a_name_is_found_from_any_working_directory";
        let output = child(test, &dir, &place.cache(), Path::new(path)).output().unwrap();
        assert_passed(&output);
    }
}

#[test]
fn a_file_that_names_no_snapshot_is_refused() {
    let place = Place::new();
    let path = place.store().join("names/web");
    let digest = Digest::of(b"state");
    let upper = digest.to_string().to_uppercase();
    let two = format!("{digest}\n{digest}\n");
    let hex = digest.hex();
    let texts = ["", "\n", "web", &hex, &upper, &two, "sha256:12"].map(str::as_bytes);
    for text in texts.into_iter().chain([&[0xff, 0xfe][..]]) {
        fs::write(&path, text).unwrap();
        let result = Image::from_snapshot(&path);
        assert!(matches!(result, Err(Error::NotAReference { .. })), "{text:?}: {result:?}");
    }
}

#[test]
fn a_name_that_does_not_exist_is_told() {
    let place = Place::new();
    let path = place.store().join("names/web");
    match Image::from_snapshot(&path) {
        Err(Error::NoSnapshot { path: told, .. }) => assert_eq!(told, path),
        result => panic!("{result:?}"),
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_told() {
    let place = Place::new();
    let digest = place.plain();
    fs::remove_dir(place.cache()).unwrap();
    fs::write(place.cache(), b"a file").unwrap();
    match place.open(digest) {
        Err(Error::Io { operation: "create", path, .. }) => assert_eq!(path, place.mapped(digest)),
        result => panic!("{result:?}"),
    }
}

#[test]
fn a_form_that_is_there_needs_no_lock() {
    let place = Place::new();
    let digest = place.plain();
    let made = place.open(digest).unwrap();
    let lock = File::open(place.mapped(digest).join("lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(inode(&place.open(digest).unwrap()), inode(&made));
}

#[test]
fn a_requirement_that_the_snapshot_does_not_meet_names_both() {
    let place = Place::new();
    let image = place.open(place.plain()).unwrap();
    let memory = image.start(&VmConfig::new().with_memory_mib(2)).unwrap_err();
    assert_eq!(
        memory.to_string(),
        "snapshot has 1 MiB of memory, 2 required; bake it with that size"
    );
    let vcpus = image.start(&VmConfig::new().with_memory_mib(1).with_vcpus(4)).unwrap_err();
    assert!(matches!(vcpus, Error::Mismatch { what: "vCPUs", wanted: 4, found: 1 }), "{vcpus}");
}
