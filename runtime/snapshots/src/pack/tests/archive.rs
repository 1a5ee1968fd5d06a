//! Archives as `tar` makes them.

use std::process::Command;

use super::super::archive::members;
use super::*;

fn tar(store: &Store, options: &[&str]) -> PathBuf {
    let path = store.dir.path().join("by-tar.tar");
    let mut command = Command::new("tar");
    command.arg("-C").arg(store.path()).arg("-cf").arg(&path).args(options);
    let status = command.status().unwrap();
    assert!(status.success(), "{status}: these tests need GNU tar");
    path
}

#[test]
fn tar_archives_of_each_format_are_read() {
    let store = Store::new();
    for format in ["v7", "ustar", "gnu", "oldgnu", "posix"] {
        let format = format!("--format={format}");
        for what in [".", "index.json", "./index.json"] {
            let mut options = vec![&format[..], "--exclude=./locks", "--exclude=./tmp", what];
            if what != "." {
                options.extend(["oci-layout", "blobs"]);
            }
            let path = tar(&store, &options);
            assert_is_the_sample(&Pack::open_at(&path, None).unwrap(), &store.made);
        }
    }
}

#[test]
fn members_are_where_tar_puts_them() {
    let store = Store::new();
    let path = tar(&store, &["--format=ustar", "."]);
    let listed = Command::new("tar").arg("-tvRf").arg(&path).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let found = members(&fs::File::open(&path).unwrap().into(), &path).unwrap();
    let mut count = 0;
    // block N: -rw-r--r-- root/root 123 2020-01-01 00:00 ./name
    for line in listed.lines().filter(|line| line.contains(": -")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let block: u64 = words[1].trim_end_matches(':').parse().unwrap();
        let name = words.last().unwrap().trim_start_matches("./");
        let member = found[name];
        assert_eq!(
            (member.offset, member.size.to_string()),
            ((block + 1) * 512, words[4].to_owned())
        );
        count += 1;
    }
    assert_eq!(count, found.len());
}

#[test]
fn false_headers_are_refused() {
    let store = Store::new();
    let good = samples::archive(&store.path());
    let path = store.dir.path().join("bad.tar");
    let refused = |at: usize, text: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + text.len()].copy_from_slice(text);
        // The checksum is right, so that the fields are checked.
        bad[148..156].fill(b' ');
        let sum: u32 = bad[..512].iter().map(|byte| u32::from(*byte)).sum();
        bad[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        fs::write(&path, &bad).unwrap();
        match Pack::open_at(&path, None).map(drop) {
            Err(PackError::Archive { offset: 0, what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    let beyond = "a member beyond the end";
    assert_eq!(refused(124, b"77777777777\0"), beyond);
    assert_eq!(refused(124, &[0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255]), beyond);
    let no_form = "a malformed size";
    assert_eq!(refused(124, &[0x80, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]), no_form);
    for text in [b"           \0", b"+0000000036\0", b"-0000000036\0", b"00000000x36\0"] {
        assert_eq!(refused(124, text), no_form);
    }
    assert_eq!(refused(0, &[0xff]), "a name that is not text");
}

#[test]
fn embedded_archive_is_read_like_a_file() {
    let store = Store::new();
    let bytes: &'static [u8] = samples::archive(&store.path()).leak();
    let source = Source::embedded("web", bytes).unwrap();
    let pack = Pack::open(&source, source.find(None).unwrap()).unwrap();
    assert_is_the_sample(&pack, &store.made);
    assert!(!source.is_folder());
    let cut = Source::embedded("web", &bytes[..bytes.len() / 2]);
    let text = cut.unwrap_err().to_string();
    assert!(text.contains("embedded:web"), "{text}");
    assert!(!format!("{source:?}").contains("117, 115"), "{source:?}");
}

#[test]
fn placeholder_file_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.tar");
    fs::write(&path, b"").unwrap();
    let text = Pack::open_at(&path, None).unwrap_err().to_string();
    assert!(text.contains("without snapshots"), "{text}");
}
