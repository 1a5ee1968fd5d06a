//! Mapped forms of synthetic packs: made once, shared, repaired, never partial.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant, SystemTime};

use supermachine_formats::pack::CHUNK_SIZE;
use supermachine_formats::snapshot::Stage;
use tempfile::TempDir;

use super::*;
use crate::error::{HostError, InvalidInput, SnapshotError};
use supermachine_snapshots::mapped::{adopt_disk, expanded_disk, forget_mapped};
use supermachine_snapshots::pack::{Descriptor, Layout, PackError};
use supermachine_test_support::packs::{self as samples, Made, PAGE};

/// Damages a file.
type Damage = fn(&Path);
/// Set in a child process of a test: the folder to work in.
const WITHIN: &str = "SUPERMACHINE_TEST_WITHIN";

/// A store with the sample packs, and a cache.
struct Home {
    dir: TempDir,
    made: Made,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = samples::make(&dir.path().join("store"));
        Self { dir, made }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn layout(&self) -> Layout {
        Layout::open(self.dir.path().join("store")).unwrap()
    }

    fn open(&self) -> Image {
        self.open_in(&self.cache(), self.made.image).unwrap()
    }

    fn open_in(&self, cache: &Path, snapshot: Descriptor) -> Result<Image, Error> {
        Image::open(self.layout().source()?, snapshot.digest, cache)
    }

    /// Another image on the same base, with the same disk.
    fn second(&self) -> (Descriptor, Vec<u8>) {
        let source = self.layout().source().unwrap();
        let base = Pack::open(&source, self.made.base.digest).unwrap();
        let disk = samples::store_disk(&self.layout(), &self.made.disk);
        let disks = [samples::DISK];
        let mut state = samples::snapshot(Stage::Image, Some(self.made.base.digest), &disks);
        state.arch.set_realtime_ns(77);
        let pages = [(9, samples::page(77))];
        let before = &self.made.base_memory;
        let parent = Some(&base.index);
        samples::store(&self.layout(), &state, parent, before, &pages, Some(vec![&disk]))
    }

    /// Every file of the cache but locks, as paths in it.
    fn listing(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.cache()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if !path.to_str().unwrap().ends_with("lock") {
                    found.insert(path.strip_prefix(self.cache()).unwrap().to_owned());
                }
            }
        }
        found
    }

    fn assert_is_whole(&self, image: &Image) {
        let mapped = image.mapped().unwrap();
        assert!(memory(mapped) == self.made.image_memory, "other memory");
        assert!(content(&mapped.disks[0]) == self.made.disk, "another disk");
    }
}

fn memory(mapped: &Mapped) -> Vec<u8> {
    let mut page = [0; PAGE];
    let read = |number| {
        mapped.memory.read_page(number, &mut page).unwrap();
        page
    };
    (0..samples::MEMORY / PAGE as u64).flat_map(read).collect()
}

fn content(file: &File) -> Vec<u8> {
    let mut content = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

fn inode(file: &File) -> u64 {
    file.metadata().unwrap().ino()
}

/// The inodes of all files of a form.
fn inodes(mapped: &Mapped) -> Vec<u64> {
    let overlay = mapped.memory.overlays.iter().map(|overlay| &overlay.file);
    let files = [&mapped.memory.base].into_iter().chain(overlay).chain(&mapped.disks);
    files.map(|file| inode(file)).collect()
}

/// Runs one test again in a child process.
fn child(test: &str, home: &Home) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("image::tests::{test}"), "--nocapture"]);
    command.env("XDG_CACHE_HOME", home.dir.path().join("xdg"));
    command.env(WITHIN, home.dir.path()).stdout(Stdio::piped());
    command
}

fn assert_passed(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
    text
}

#[test]
fn mapped_memory_and_disks_match_the_pack() {
    let home = Home::new();
    let image = home.open();
    home.assert_is_whole(&image);
    assert_eq!(image.digest(), home.made.image.digest);
    // The cache alone gives the same.
    let again = home.open();
    assert_eq!(again.snapshot(), image.snapshot());
    home.assert_is_whole(&again);
    let base = home.open_in(&home.cache(), home.made.base).unwrap();
    assert!(memory(base.mapped().unwrap()) == home.made.base_memory);
    assert!(base.mapped().unwrap().memory.overlays.is_empty());
}

#[test]
fn archive_and_folder_give_the_same_form() {
    let home = Home::new();
    let path = home.dir.path().join("pack.tar");
    fs::write(&path, samples::archive(&home.dir.path().join("store"))).unwrap();
    let source = Source::open(&path).unwrap();
    let digest = source.find(None).unwrap();
    let image = Image::open(source, digest, &home.cache()).unwrap();
    home.assert_is_whole(&image);
    assert_eq!(inodes(home.open().mapped().unwrap()), inodes(image.mapped().unwrap()));
}

#[test]
fn snapshots_share_the_memory_of_a_base_and_disks() {
    let home = Home::new();
    let (second, second_memory) = home.second();
    let first = home.open();
    let first = first.mapped().unwrap();
    let second = home.open_in(&home.cache(), second).unwrap();
    let second = second.mapped().unwrap();
    let base = home.open_in(&home.cache(), home.made.base).unwrap();
    assert!(memory(second) == second_memory, "other memory");
    assert_eq!(inode(&first.memory.base), inode(&second.memory.base));
    assert_eq!(inode(&first.memory.base), inode(&base.mapped().unwrap().memory.base));
    assert_eq!(inode(&first.disks[0]), inode(&second.disks[0]));
    let overlay = |mapped: &Mapped| inode(&mapped.memory.overlays.first().unwrap().file);
    assert_ne!(overlay(first), overlay(second));
    let names: Vec<_> =
        home.listing().into_iter().map(|path| path.parent().unwrap().to_owned()).collect();
    let count = |folder: &str| names.iter().filter(|name| name.starts_with(folder)).count();
    // Each with its stamp; the form and the state of each snapshot.
    assert_eq!(
        [count("memory"), count("overlays"), count("disks"), count("snapshots")],
        [2, 4, 2, 6]
    );
}

/// Holes stay holes.
#[test]
fn expanded_files_are_sparse() {
    let home = Home::new();
    let image = home.open();
    let mapped = image.mapped().unwrap();
    for (file, chunks) in [(&mapped.memory.base, 3), (&mapped.disks[0], 2)] {
        let taken = file.metadata().unwrap().blocks() * 512;
        assert!(taken <= (chunks + 1) * CHUNK_SIZE, "{taken} bytes for {chunks} chunks");
    }
}

#[test]
fn existing_form_needs_neither_lock_nor_pack() {
    let home = Home::new();
    let made = inodes(home.open().mapped().unwrap());
    let dir = home.cache().join("snapshots").join(home.made.image.digest.hex());
    let lock = File::open(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    let source = home.layout().source().unwrap();
    fs::remove_dir_all(home.dir.path().join("store/blobs")).unwrap();
    let image = Image::open(source, home.made.image.digest, &home.cache()).unwrap();
    assert_eq!(inodes(image.mapped().unwrap()), made);
}

#[test]
fn damaged_file_of_a_form_is_found_and_made_again() {
    let damages: [(&str, Damage); 5] = [
        ("flipped", |path| {
            let file = File::options().read(true).write(true).open(path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, 3).unwrap();
            file.write_all_at(&[byte[0] ^ 1], 3).unwrap();
            // Visible even with coarse clocks.
            file.set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
        }),
        ("cut", |path| {
            let file = File::options().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
        ("emptied", |path| fs::write(path, b"").unwrap()),
        ("replaced", |path| {
            let copy = path.with_extension("copy");
            fs::write(&copy, vec![0xff; fs::metadata(path).unwrap().len() as usize]).unwrap();
            fs::rename(copy, path).unwrap();
        }),
        ("removed", |path| fs::remove_file(path).unwrap()),
    ];
    let home = Home::new();
    home.assert_is_whole(&home.open());
    let files = home.listing();
    // Form and state, and base, overlay and disk with a stamp each.
    assert_eq!(files.len(), 8);
    for file in &files {
        for (name, damage) in damages {
            // Held open, so that inode numbers are not reused.
            let before = home.open();
            let before = before.mapped().unwrap();
            damage(&home.cache().join(file));
            if file.extension().is_some() {
                // The form records the file's own stamp; makers of other forms read this one.
                home.assert_is_whole(&home.open());
                forget_mapped(&home.cache(), home.made.image.digest);
            }
            let image = home.open();
            home.assert_is_whole(&image);
            let is_shared = !file.starts_with("snapshots");
            let pairs = inodes(image.mapped().unwrap()).into_iter().zip(inodes(before));
            let changed = pairs.filter(|(now, then)| now != then).count();
            assert_eq!(changed, usize::from(is_shared), "{file:?} {name}");
            assert_eq!(home.listing(), files, "{file:?} {name}");
        }
    }
}

#[test]
fn form_is_made_again_after_the_cache_was_removed() {
    let home = Home::new();
    let running = home.open();
    home.assert_is_whole(&running);
    fs::remove_dir_all(home.cache()).unwrap();
    // Mappings stay.
    home.assert_is_whole(&running);
    home.assert_is_whole(&home.open());
    forget_mapped(&home.cache(), home.made.image.digest);
    home.assert_is_whole(&home.open());
}

#[test]
fn leftovers_of_a_killed_maker_are_removed_by_the_next() {
    let home = Home::new();
    home.assert_is_whole(&home.open());
    let files = home.listing();
    for file in files.iter().filter(|file| !file.starts_with("snapshots")) {
        if file.extension().is_some() {
            continue;
        }
        let path = home.cache().join(file);
        fs::remove_file(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        fs::write(path.with_file_name(format!("{name}.0123456789abcdef.tmp")), b"half").unwrap();
    }
    home.assert_is_whole(&home.open());
    assert_eq!(home.listing(), files);
}

#[test]
fn many_threads_make_the_form_once() {
    const THREADS: usize = 8;
    let home = Home::new();
    let (second, _) = home.second();
    let barrier = Barrier::new(2 * THREADS);
    let open = |snapshot| {
        barrier.wait();
        let image = home.open_in(&home.cache(), snapshot).unwrap();
        inodes(image.mapped().unwrap())
    };
    let found: Vec<Vec<Vec<u64>>> = std::thread::scope(|scope| {
        let start = |snapshot| (0..THREADS).map(|_| scope.spawn(move || open(snapshot))).collect();
        let threads: [Vec<_>; 2] = [home.made.image, second].map(start);
        threads
            .into_iter()
            .map(|threads| threads.into_iter().map(|thread| thread.join().unwrap()).collect())
            .collect()
    });
    for same in &found {
        assert!(same.iter().all(|inodes| *inodes == same[0]), "{found:?}");
    }
    // The base and the disk are one for all of them.
    assert_eq!((found[0][0][0], found[0][0][2]), (found[1][0][0], found[1][0][2]));
    assert_eq!(home.listing().len(), 12);
}

#[test]
fn many_processes_make_the_form_once() {
    if let Some(dir) = std::env::var_os(WITHIN) {
        let image = Image::from_store(Path::new(&dir).join("store"), "example").unwrap();
        println!("inodes={:?}", inodes(image.mapped().unwrap()));
        return;
    }
    let home = Home::new();
    let start = |_| child("many_processes_make_the_form_once", &home).spawn().unwrap();
    let children: Vec<_> = (0..6).map(start).collect();
    let told = |child: std::process::Child| {
        let text = assert_passed(&child.wait_with_output().unwrap());
        text.split_once("inodes=").unwrap().1.lines().next().unwrap().to_owned()
    };
    let inodes: BTreeSet<String> = children.into_iter().map(told).collect();
    assert_eq!(inodes.len(), 1, "{inodes:?}");
}

#[test]
fn makers_killed_at_any_time_leave_a_working_cache() {
    if let Some(dir) = std::env::var_os(WITHIN) {
        let source = Source::open(&Path::new(&dir).join("store")).unwrap();
        let digest = source.find(None).unwrap();
        loop {
            let cache = Path::new(&dir).join("cache");
            Image::open(source.clone(), digest, &cache).unwrap().mapped().unwrap();
            fs::remove_dir_all(&cache).unwrap();
        }
    }
    let home = Home::new();
    for round in 0..12 {
        let name = "makers_killed_at_any_time_leave_a_working_cache";
        let mut manager = child(name, &home).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + 17 * round));
        manager.kill().unwrap();
        manager.wait().unwrap();
        home.assert_is_whole(&home.open());
        home.assert_is_whole(&home.open());
    }
}

/// A tiny file system. Mounting needs root.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(parent: &Path, size: &str) -> Self {
        let path = parent.join("small");
        fs::create_dir(&path).unwrap();
        let mut mount = as_root("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path);
        assert!(mount.status().unwrap().success(), "mounting takes root");
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = as_root("umount").arg("-l").arg(&self.0).status();
    }
}

fn as_root(program: &str) -> Command {
    // SAFETY: getuid has no precondition and cannot fail.
    if unsafe { libc::getuid() } == 0 {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", program]);
    sudo
}

#[test]
fn full_disk_is_an_error_and_leaves_no_partial_form() {
    let home = Home::new();
    let disk = SmallDisk::new(home.dir.path(), "256k");
    let cache = disk.0.join("cache");
    let image = home.open_in(&cache, home.made.image).unwrap();
    match image.mapped() {
        Err(Error::Host { source: HostError::Io { operation: "write", path, source } }) => {
            assert!(path.starts_with(&cache), "{path:?}");
            assert_eq!(source.raw_os_error(), Some(libc::ENOSPC));
        }
        other => panic!("{other:?}"),
    }
    for folder in ["memory", "overlays", "disks"] {
        // The work ends with the first file, before there are other folders.
        let entries = fs::read_dir(cache.join(folder)).into_iter().flatten();
        let left: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        assert!(
            left.iter().all(|path| path.extension().is_some_and(|end| end == "lock")),
            "{left:?}"
        );
    }
    assert!(
        as_root("mount").args(["-o", "remount,size=8m"]).arg(&disk.0).status().unwrap().success()
    );
    home.assert_is_whole(&image);
    home.assert_is_whole(&home.open_in(&cache, home.made.image).unwrap());
}

#[test]
fn damaged_chunk_is_named_and_leaves_no_file() {
    let home = Home::new();
    let image = home.open();
    let blob = image.pack().unwrap().manifest.chunks[0].digest;
    let path = home.layout().blob_path(blob);
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[9] ^= 0xff;
    fs::write(&path, &bad).unwrap();
    let image = home.open();
    match image.mapped() {
        Err(Error::Snapshot {
            source: SnapshotError::Pack { source: PackError::Chunk { blob: told, .. } },
        }) => assert_eq!(told, blob),
        other => panic!("{other:?}"),
    }
    assert_eq!(home.listing(), BTreeSet::new());
    // A start before the form is made finds it too.
    let mut chunks = image.chunks_on_demand().unwrap().unwrap();
    let error = (0..16).find_map(|place| chunks.chunk((0, place)).err()).unwrap();
    assert!(error.to_string().starts_with("chunks are damaged: "), "{error}");
    fs::write(&path, &good).unwrap();
    home.assert_is_whole(&image);
}

#[test]
fn missing_blob_of_the_parent_is_named() {
    let home = Home::new();
    let base = home.open_in(&home.cache(), home.made.base).unwrap();
    let blob = base.pack().unwrap().manifest.chunks[0].digest;
    fs::remove_file(home.layout().blob_path(blob)).unwrap();
    match home.open_in(&home.cache(), home.made.image) {
        Err(Error::Snapshot {
            source:
                SnapshotError::Pack { source: PackError::MissingBlob { section: "chunks", digest } },
        }) => {
            assert_eq!(digest, blob);
        }
        other => panic!("{other:?}"),
    }
    // The parent's manifest and state are not needed.
    let home = Home::new();
    fs::remove_file(home.layout().blob_path(home.made.base.digest)).unwrap();
    home.assert_is_whole(&home.open());
}

#[test]
fn chunks_on_demand_match_the_form_and_first_use_comes_first() {
    let home = Home::new();
    let image = home.open();
    let mut chunks = image.chunks_on_demand().unwrap().unwrap();
    assert_eq!(chunks.first_use(), [(0, 5), (0, 0)]);
    for (space, wanted) in [(0, &home.made.image_memory), (1, &home.made.disk)] {
        for (place, wanted) in (0..).zip(wanted.chunks(CHUNK_SIZE as usize)) {
            match chunks.chunk((space, place)).unwrap() {
                Some(found) => assert!(found == wanted, "{space} {place}"),
                None => assert!(wanted.iter().all(|byte| *byte == 0), "{space} {place}"),
            }
        }
    }
    assert!(chunks.chunk((7, 0)).unwrap().is_none());
    assert!(chunks.chunk((0, u32::MAX)).unwrap().is_none());
}

#[test]
fn start_uses_the_available_mode() {
    let home = Home::new();
    let image = home.open();
    assert!(can_page_on_demand(), "these tests need a process that may use userfaultfd");
    let (origin, mode) = image.origin(true).unwrap();
    assert_eq!(mode, RestoreMode::OnDemand);
    let Origin::Chunks(mut chunks) = origin else { panic!("{origin:?}") };
    // The form is made after the first chunks, and then used.
    assert!(image.inner.found().is_none());
    chunks.first_use_done();
    let begun = Instant::now();
    while image.inner.found().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the form is not made");
        std::thread::yield_now();
    }
    home.assert_is_whole(&image);
    assert_eq!(image.origin(true).unwrap().1, RestoreMode::Mapped);
    // Where pages cannot come on demand, the form is made first.
    let home = Home::new();
    let image = home.open();
    let (origin, mode) = image.origin(false).unwrap();
    assert_eq!(mode, RestoreMode::Expanded);
    assert!(matches!(origin, Origin::Files { .. }), "{origin:?}");
    home.assert_is_whole(&image);
    assert_eq!(image.origin(false).unwrap().1, RestoreMode::Mapped);
}

#[test]
fn form_abandoned_by_processes_is_made_by_the_next() {
    let home = Home::new();
    let mode = |image: &Image| image.origin(true).unwrap().1;
    let first = home.open();
    // A live process may still finish, and no other waits for it.
    assert_eq!([mode(&first), mode(&first), mode(&home.open())], [RestoreMode::OnDemand; 3]);
    drop(first);
    // Without space for it, machines still start, each time.
    let blocked = home.cache().join("memory");
    fs::write(&blocked, b"a file").unwrap();
    for _ in 0..3 {
        assert_eq!(mode(&home.open()), RestoreMode::OnDemand);
    }
    fs::remove_file(&blocked).unwrap();
    let later: Vec<_> = (0..3).map(|_| mode(&home.open())).collect();
    assert_eq!(later.last(), Some(&RestoreMode::Mapped), "{later:?}");
    assert!(later.contains(&RestoreMode::Expanded), "{later:?}");
    home.assert_is_whole(&home.open());
}

#[test]
fn read_only_cache_is_an_error() {
    let home = Home::new();
    fs::write(home.cache(), b"a file").unwrap();
    match home.open().mapped() {
        Err(Error::Host { source: HostError::Io { operation, path, .. } }) => {
            assert!(operation.starts_with("create"), "{operation}");
            assert!(path.starts_with(home.cache()), "{path:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn adopted_disk_is_not_expanded() {
    let home = Home::new();
    let pack = Arc::clone(home.open().pack().unwrap());
    let file = home.dir.path().join("disk");
    fs::write(&file, &home.made.disk).unwrap();
    let own = fs::metadata(&file).unwrap().ino();
    adopt_disk(&home.cache(), &pack.index, 0, &file).unwrap();
    let image = home.open();
    home.assert_is_whole(&image);
    assert_eq!(inode(&image.mapped().unwrap().disks[0]), own);
    fs::remove_dir_all(home.cache()).unwrap();
    let source = home.layout().source().unwrap();
    let expanded = expanded_disk(&home.cache(), &source, &pack.index).unwrap();
    assert!(content(&expanded) == home.made.disk);
    assert_eq!(inode(&home.open().mapped().unwrap().disks[0]), inode(&expanded));
}

#[test]
fn unmet_requirement_names_both_sizes() {
    let home = Home::new();
    let image = home.open();
    let memory = image.require(&VmConfig::new().with_memory_mib(2)).unwrap_err();
    assert_eq!(
        memory.to_string(),
        "snapshot has 1 MiB of memory, 2 required; bake it with that size"
    );
    let vcpus = image.require(&VmConfig::new().with_memory_mib(1).with_vcpus(4)).unwrap_err();
    assert!(
        matches!(
            vcpus,
            Error::Invalid {
                source: InvalidInput::Mismatch { what: "vCPUs", wanted: 4, found: 1 }
            }
        ),
        "{vcpus}"
    );
}
