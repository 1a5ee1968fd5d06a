//! Archives as a machine sends them, and as a hostile one could.

use std::os::unix::fs::{MetadataExt, symlink};

use super::*;

/// A folder with a folder that the archives are unpacked into.
fn places() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("new");
    fs::create_dir(&folder).unwrap();
    (dir, folder)
}

/// An entry: its name, kind, mode, and its content or where it leads.
type Sample<'a> = (&'a str, EntryType, u32, &'a str);

fn archive(entries: &[Sample<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, mode, content) in entries {
        let mut header = Header::new_gnu();
        // The names that a hostile machine sends are none that a builder takes.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_mtime(1_000_000_000);
        let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
        header.set_size(if is_link { 0 } else { content.len() as u64 });
        if is_link {
            header.set_link_name_literal(content).unwrap();
        }
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        if !is_link {
            bytes.extend_from_slice(content.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

const FILE: EntryType = EntryType::Regular;
const FOLDER: EntryType = EntryType::Directory;

#[test]
fn folder_comes_with_modes_links_and_times_but_no_set_user_id() {
    let (_dir, folder) = places();
    let bytes = archive(&[
        ("./", FOLDER, 0o750, ""),
        ("./sub/", FOLDER, 0o555, ""),
        ("./sub/file", FILE, 0o4711, "content"),
        ("./sub/twin", EntryType::Link, 0o644, "./sub/file"),
        ("./link", EntryType::Symlink, 0o777, "/nowhere"),
        ("./null", EntryType::Char, 0o666, ""),
    ]);
    assert_eq!(unpack(&bytes[..], &folder).unwrap(), Path::new(""));
    let mode = |name: &str| fs::metadata(folder.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode(""), mode("sub"), mode("sub/file")), (0o750, 0o555, 0o711));
    let file = fs::metadata(folder.join("sub/file")).unwrap();
    assert_eq!((file.nlink(), file.mtime()), (2, 1_000_000_000));
    assert_eq!(fs::read_link(folder.join("link")).unwrap(), Path::new("/nowhere"));
    assert!(!folder.join("null").exists());
}

#[test]
fn one_file_comes_under_its_name() {
    let (_dir, folder) = places();
    let one = archive(&[("file", FILE, 0o644, "content")]);
    assert_eq!(unpack(&one[..], &folder).unwrap(), Path::new("file"));
    assert_eq!(fs::read(folder.join("file")).unwrap(), b"content");
    let two = archive(&[("file", FILE, 0o644, "a"), ("./other", FILE, 0o644, "b")]);
    assert!(unpack(&two[..], &folder).is_err());
}

#[test]
fn no_entry_gets_out_of_its_folder() {
    let begin = ("./", FOLDER, 0o755, "");
    let link = |to| ("./out", EntryType::Symlink, 0o777, to);
    let samples: [&[Sample<'_>]; 7] = [
        &[("../escaped", FILE, 0o644, "x")],
        &[begin, ("./../escaped", FILE, 0o644, "x")],
        &[begin, ("./a/../../escaped", FOLDER, 0o755, "")],
        &[begin, link(".."), ("./out/escaped", FILE, 0o644, "x")],
        &[begin, link(".."), ("./out/escaped/", FOLDER, 0o755, "")],
        &[begin, ("./twin", EntryType::Link, 0o644, "../secret")],
        &[begin, link("../secret"), ("./twin", EntryType::Link, 0o644, "./out")],
    ];
    for (number, sample) in samples.iter().enumerate() {
        let (dir, folder) = places();
        fs::write(dir.path().join("secret"), "kept").unwrap();
        let _ = unpack(&archive(sample)[..], &folder);
        assert!(!dir.path().join("escaped").exists(), "{number}");
        let secret = fs::metadata(dir.path().join("secret")).unwrap();
        assert_eq!(secret.nlink(), 1, "{number}");
    }
    // A root is not the host's.
    let (_dir, folder) = places();
    let absolute = archive(&[("/tmp-of-guest", FILE, 0o644, "x")]);
    assert!(unpack(&absolute[..], &folder).is_err());
    assert!(!Path::new("/tmp-of-guest").exists());
}

#[test]
fn link_that_is_there_is_replaced_and_not_followed() {
    let (dir, folder) = places();
    let (target, secret) = (dir.path().join("target"), dir.path().join("secret"));
    fs::create_dir(&target).unwrap();
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key"), "kept").unwrap();
    symlink(secret.join("key"), target.join("file")).unwrap();
    symlink(&secret, target.join("sub")).unwrap();
    fs::write(target.join("stays"), "").unwrap();
    fs::write(folder.join("file"), "new").unwrap();
    settle(&folder, &target).unwrap();
    assert_eq!(fs::read(target.join("file")).unwrap(), b"new");
    assert_eq!(fs::read(secret.join("key")).unwrap(), b"kept");
    assert!(target.join("stays").exists());
    fs::create_dir(folder.join("sub")).unwrap();
    fs::write(folder.join("sub/key"), "new").unwrap();
    assert!(settle(&folder, &target).is_err());
    assert_eq!(fs::read(secret.join("key")).unwrap(), b"kept");
}

#[test]
fn what_is_packed_unpacks_as_it_was_under_its_new_name() {
    let (dir, folder) = places();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    let long = "long".repeat(50);
    fs::write(source.join("sub").join(&long), vec![7; 100_000]).unwrap();
    symlink("sub", source.join("link")).unwrap();
    let mut bytes = Vec::new();
    pack(&mut bytes, Path::new("name"), &source).unwrap();
    Archive::new(&bytes[..]).unpack(&folder).unwrap();
    assert_eq!(fs::read(folder.join("name/sub").join(&long)).unwrap(), vec![7; 100_000]);
    assert_eq!(fs::read_link(folder.join("name/link")).unwrap(), Path::new("sub"));
    let mut archive = Archive::new(&bytes[..]);
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
    }
}

#[test]
fn file_that_shrinks_meanwhile_is_an_error() {
    let (dir, _) = places();
    let path = dir.path().join("file");
    fs::write(&path, "long content").unwrap();
    let found = fs::metadata(&path).unwrap();
    fs::write(&path, "short").unwrap();
    let mut archive = Builder::new(Vec::new());
    let error = add(&mut archive, Path::new("file"), &path, &found).unwrap_err();
    assert!(matches!(error, Error::File { operation: "read", .. }), "{error:?}");
}
