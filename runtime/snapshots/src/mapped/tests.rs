//! A maker that is killed while it writes, and one without room.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cache::{Entry, Kind};
use super::{FormDir, Mapped};
use crate::pack::{Layout, Pack};
use crate::samples::{self, PAGE};
use supermachine_test_support::small_disk::with_small_disk;

/// Set in a child process of the test: the folder with the store and the cache.
const WITHIN: &str = "SUPERMACHINE_TEST_WITHIN";
const MEMORY_FOLDER: &str = "memory";

fn make_form(dir: &Path, pack: &Arc<Pack>) -> Mapped {
    FormDir::new(&dir.join("cache"), pack.digest).make(pack).unwrap()
}

fn memory(mapped: &Mapped) -> Vec<u8> {
    let mut page = [0; PAGE];
    let read = |number| {
        mapped.memory.read_page(number, &mut page).unwrap();
        page
    };
    (0..samples::MEMORY / PAGE as u64).flat_map(read).collect()
}

/// Whether a memory file is being written.
fn is_half_made(cache: &Path) -> bool {
    let files = fs::read_dir(cache.join(MEMORY_FOLDER)).into_iter().flatten().flatten();
    files.map(|file| file.file_name()).any(|name| name.as_encoded_bytes().ends_with(b".tmp"))
}

#[test]
fn next_maker_takes_over_from_a_killed_one() {
    if let Some(dir) = std::env::var_os(WITHIN) {
        let dir = Path::new(&dir);
        let index = Pack::open_at(&dir.join("store"), None).unwrap().index;
        let identity = index.identity(&index.memory, 1);
        let entry = Entry::new(&dir.join("cache"), Kind::Memory, identity);
        let making = entry.make(index.memory.size).unwrap().unwrap();
        making.file.write_all_at(&[7; PAGE], 0).unwrap();
        println!("half");
        std::thread::park();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let made = samples::make(&dir.path().join("store"));
    let source = Layout::open(dir.path().join("store")).unwrap().source().unwrap();
    let pack = Arc::new(Pack::open(&source, made.image.digest).unwrap());
    let mut maker = Command::new(std::env::current_exe().unwrap());
    let name = "mapped::tests::next_maker_takes_over_from_a_killed_one";
    maker.args(["--exact", name, "--nocapture"]).env(WITHIN, dir.path()).stdout(Stdio::piped());
    let mut maker = maker.spawn().unwrap();
    let begun = Instant::now();
    while !is_half_made(&dir.path().join("cache")) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the maker writes nothing");
        std::thread::yield_now();
    }
    // A second maker waits for the first, and takes over when it is killed.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| memory(&make_form(dir.path(), &pack)) == made.image_memory);
        maker.kill().unwrap();
        maker.wait().unwrap();
        assert!(waiting.join().unwrap(), "other memory");
    });
    assert!(!is_half_made(&dir.path().join("cache")));
}

#[test]
fn form_without_room_is_refused_at_once_and_made_when_there_is_some() {
    let test = "mapped::tests::form_without_room_is_refused_at_once_and_made_when_there_is_some";
    with_small_disk(512 << 10, test, |disk| {
        let dir = tempfile::tempdir().unwrap();
        let made = samples::make(&dir.path().join("store"));
        let source = Layout::open(dir.path().join("store")).unwrap().source().unwrap();
        let pack = Arc::new(Pack::open(&source, made.image.digest).unwrap());
        let form = FormDir::new(disk.dir(), pack.digest);
        let error = form.make(&pack).unwrap_err().to_string();
        assert!(error.starts_with(&format!("disk full: {}", disk.dir().display())), "{error}");
        let is_temporary = |path: &PathBuf| path.extension().is_some_and(|it| it == "tmp");
        assert!(!disk.files().iter().any(is_temporary), "{:?}", disk.files());
        disk.resize(8 << 20);
        let mapped = form.make(&pack).unwrap();
        assert!(memory(&mapped) == made.image_memory, "other memory");
    });
}
