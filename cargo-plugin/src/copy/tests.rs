//! Archives from a machine, honest and hostile.

use std::error::Error as _;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use tar::{Archive, EntryType};

use super::*;

/// A folder, and in it a folder to unpack archives into.
fn folders() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("new");
    fs::create_dir(&folder).unwrap();
    (dir, folder)
}

/// An entry: name, type, mode, and content or link target.
type Sample<'a> = (&'a str, EntryType, u32, &'a str);

fn unpack(bytes: &[u8], folder: &Path) -> Result<Unpacked, Error> {
    Unpacked::read(bytes, folder, false)
}

fn archive(entries: &[Sample<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, mode, content) in entries {
        let mut header = Header::new_gnu();
        // `tar::Builder` refuses hostile names, so write them into the header.
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
fn folder_keeps_modes_links_and_times_but_no_set_user_id() {
    let (dir, folder) = folders();
    let bytes = archive(&[
        ("./", FOLDER, 0o750, ""),
        ("./sub/", FOLDER, 0o555, ""),
        ("./sub/file", FILE, 0o4711, "content"),
        ("./sub/twin", EntryType::Link, 0o644, "./sub/file"),
        ("./link", EntryType::Symlink, 0o777, "/nowhere"),
        ("./null", EntryType::Char, 0o666, ""),
    ]);
    let target = dir.path().join("target");
    unpack(&bytes, &folder).unwrap().settle(&target).unwrap();
    let found = |name: &str| fs::metadata(target.join(name)).unwrap();
    let mode = |name: &str| found(name).mode() & 0o7777;
    assert_eq!((mode("."), mode("sub"), mode("sub/file")), (0o750, 0o555, 0o711));
    assert_eq!((found("sub/file").nlink(), found("sub/file").mtime()), (2, 1_000_000_000));
    assert_eq!((found(".").mtime(), found("sub").mtime()), (1_000_000_000, 1_000_000_000));
    assert_eq!(fs::read_link(target.join("link")).unwrap(), Path::new("/nowhere"));
    assert!(!target.join("null").exists());
    assert!(!folder.exists());
}

#[test]
fn single_file_keeps_its_name() {
    let (_dir, folder) = folders();
    let one = archive(&[("file", FILE, 0o644, "content")]);
    assert_eq!(unpack(&one, &folder).unwrap().content, Path::new("file"));
    assert_eq!(fs::read(folder.join("file")).unwrap(), b"content");
    let two = archive(&[("file", FILE, 0o644, "a"), ("./other", FILE, 0o644, "b")]);
    assert!(unpack(&two, &folder).is_err());
}

#[test]
fn no_entry_leaves_its_folder() {
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
        let (dir, folder) = folders();
        fs::write(dir.path().join("secret"), "kept").unwrap();
        let _ = unpack(&archive(sample), &folder);
        assert!(!dir.path().join("escaped").exists(), "{number}");
        let secret = fs::metadata(dir.path().join("secret")).unwrap();
        assert_eq!(secret.nlink(), 1, "{number}");
    }
    // A leading slash is not the host's root.
    let (_dir, folder) = folders();
    let absolute = archive(&[("/tmp-of-guest", FILE, 0o644, "x")]);
    assert!(unpack(&absolute, &folder).is_err());
    assert!(!Path::new("/tmp-of-guest").exists());
}

#[test]
fn existing_link_is_replaced_and_not_followed() {
    let (dir, folder) = folders();
    let (target, secret) = (dir.path().join("target"), dir.path().join("secret"));
    fs::create_dir(&target).unwrap();
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key"), "kept").unwrap();
    symlink(secret.join("key"), target.join("file")).unwrap();
    symlink(&secret, target.join("sub")).unwrap();
    fs::write(target.join("stays"), "").unwrap();
    let begin = ("./", FOLDER, 0o700, "");
    let file = archive(&[begin, ("./file", FILE, 0o644, "new")]);
    unpack(&file, &folder).unwrap().settle(&target).unwrap();
    assert_eq!(fs::read(target.join("file")).unwrap(), b"new");
    assert_eq!(fs::read(secret.join("key")).unwrap(), b"kept");
    assert!(target.join("stays").exists());
    let sub = archive(&[begin, ("./sub/", FOLDER, 0o755, ""), ("./sub/key", FILE, 0o644, "new")]);
    let error = unpack(&sub, &folder).unwrap().settle(&target).unwrap_err();
    assert!(matches!(error, Error::File { operation: "rename", .. }), "{error:?}");
    assert_eq!(fs::read(secret.join("key")).unwrap(), b"kept");
}

/// Passes the folder of the test below to its run by another user.
const READ_ONLY: &str = "SUPERMACHINE_TEST_READ_ONLY";

/// Runs as another user, because root can write to read-only folders.
#[test]
fn read_only_folder_is_copied_twice_and_leaves_nothing_behind() {
    let Some(folder) = std::env::var_os(READ_ONLY).map(PathBuf::from) else {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        let program = dir.path().join("program");
        // Another process writes the file. If this process had it open for writing, a child of a
        // parallel test could inherit the descriptor, and the file could not be executed.
        let mut copy = Command::new("cp");
        copy.arg(std::env::current_exe().unwrap()).arg(&program);
        assert!(copy.status().unwrap().success());
        let mut command = Command::new(program);
        if rustix::process::geteuid().is_root() {
            command.uid(65534);
        }
        let name = "read_only_folder_is_copied_twice_and_leaves_nothing_behind";
        command.args(["--exact", &format!("copy::tests::{name}")]).env(READ_ONLY, dir.path());
        assert!(command.status().unwrap().success());
        return;
    };
    let bytes = archive(&[
        ("./", FOLDER, 0o555, ""),
        ("./sub/", FOLDER, 0o500, ""),
        ("./sub/file", FILE, 0o444, "content"),
    ]);
    let target = folder.join("target");
    let copy = || {
        let staging = tempfile::tempdir_in(&folder).unwrap();
        unpack(&bytes, staging.path()).unwrap().settle(&target)
    };
    copy().unwrap();
    assert_eq!(fs::read(target.join("sub/file")).unwrap(), b"content");
    assert_eq!(fs::metadata(target.join("sub")).unwrap().mode() & 0o777, 0o500);
    let error = copy().unwrap_err();
    assert!(matches!(&error, Error::File { path, .. } if path.ends_with("sub/file")), "{error:?}");
    let mut names: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["program", "target"]);
    for name in ["", "sub"] {
        fs::set_permissions(target.join(name), Permissions::from_mode(0o700)).unwrap();
    }
}

/// Headers and names are kept in memory, so they must be bounded.
#[test]
fn endless_names_and_directories_are_refused() {
    let (_dir, folder) = folders();
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let mut header = Header::new_gnu();
        header.set_path("./x").unwrap();
        header.set_entry_type(kind);
        header.set_size(1 << 40);
        header.set_cksum();
        let counted = Counted { head: header.as_bytes(), count: 0 };
        let mut archive = std::io::BufReader::with_capacity(512, counted);
        let error = Unpacked::read(&mut archive, &folder, false).unwrap_err();
        assert!(error.source().unwrap().to_string().contains("name is too long"), "{error:?}");
        assert!(archive.get_ref().count < 200_000, "{}", archive.get_ref().count);
    }
    let many = archive(&[("./x/", FOLDER, 0o755, "")]);
    let many = &many[..512];
    let endless = std::iter::repeat_with(|| many).take(1 << 20).flatten().copied();
    let error = Unpacked::read(Bytes(endless), &folder, false).unwrap_err();
    assert!(error.source().unwrap().to_string().contains("too many directories"), "{error:?}");
}

/// A header, and then endless letters.
struct Counted<'a> {
    head: &'a [u8],
    count: usize,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut count = self.head.read(buffer)?;
        if count == 0 {
            buffer.fill(b'x');
            count = buffer.len();
        }
        self.count += count;
        Ok(count)
    }
}

struct Bytes<I>(I);

impl<I: Iterator<Item = u8>> Read for Bytes<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(buffer.iter_mut().zip(&mut self.0).map(|(to, from)| *to = from).count())
    }
}

#[test]
fn packed_folder_unpacks_unchanged_under_its_new_name() {
    let (dir, folder) = folders();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    let long = "long".repeat(50);
    fs::write(source.join("sub").join(&long), vec![7; 100_000]).unwrap();
    symlink("sub", source.join("link")).unwrap();
    let mut bytes = Vec::new();
    pack(&mut bytes, Path::new("name"), &source, Owner::ROOT).unwrap();
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
fn file_that_shrinks_during_the_copy_is_an_error() {
    let (dir, _) = folders();
    let path = dir.path().join("file");
    fs::write(&path, "long content").unwrap();
    let found = fs::metadata(&path).unwrap();
    fs::write(&path, "short").unwrap();
    let mut archive = Builder::new(Vec::new());
    let error = add(&mut archive, Path::new("file"), (&path, &found), Owner::ROOT).unwrap_err();
    assert!(matches!(error, Error::File { operation: "read", .. }), "{error:?}");
}

#[test]
fn copies_into_a_machine_have_the_owner_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/file"), "x").unwrap();
    let found = fs::metadata(dir.path()).unwrap();
    let own = (u64::from(found.uid()), u64::from(found.gid()));
    let fixed = Owner::Fixed { uid: 7, gid: 3_000_000 };
    for (owner, expected) in [(Owner::ROOT, (0, 0)), (fixed, (7, 3_000_000)), (Owner::Source, own)]
    {
        let mut bytes = Vec::new();
        pack(&mut bytes, Path::new("name"), dir.path(), owner).unwrap();
        let mut archive = Archive::new(&bytes[..]);
        let owners: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.header().uid().unwrap(), entry.header().gid().unwrap()))
            .collect();
        assert_eq!(owners, [expected; 3], "{owner:?}");
    }
}

#[test]
fn copies_out_of_a_machine_keep_their_owner_if_asked() {
    let (dir, folder) = folders();
    let found = fs::metadata(dir.path()).unwrap();
    let mut bytes = archive(&[("./", FOLDER, 0o755, ""), ("./file", FILE, 0o644, "content")]);
    // Only root may give files away, so that these stay this process's own, or become another's.
    let is_root = found.uid() == 0;
    let (uid, gid) = if is_root { (1234, 4321) } else { (found.uid(), found.gid()) };
    for start in [0, 512] {
        let mut header = Header::from_byte_slice(&bytes[start..start + 512]).clone();
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_cksum();
        bytes[start..start + 512].copy_from_slice(header.as_bytes());
    }
    let target = dir.path().join("target");
    Unpacked::read(&bytes[..], &folder, true).unwrap().settle(&target).unwrap();
    for name in [".", "file"] {
        let found = fs::metadata(target.join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (uid, gid), "{name}");
    }
}
