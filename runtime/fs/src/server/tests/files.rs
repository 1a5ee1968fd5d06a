//! Files, folders and their attributes, as programs use them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::io::Errno;

use super::client::{Fields, Guest, long, longs, text, word, words};
use crate::abi::{self, ROOT, operation as code, set};
use crate::request::{APPEND, EXCLUSIVE, READ_WRITE, TRUNCATE, WRITE_ONLY};

#[test]
fn guest_and_server_agree_on_a_version() {
    let guest = Guest::new();
    let answer = guest.init().unwrap();
    assert_eq!(answer.len(), 64);
    assert_eq!((word(&answer, 0), word(&answer, 4)), (7, abi::NEWEST_MINOR));
    assert_eq!(word(&answer, 12), abi::feature::WANTED);
    assert_eq!(word(&answer, 20), abi::MAX_DATA);
    for version in [[7, 12], [6, 40]] {
        assert_eq!(guest.ask(code::INIT, 0, &words(&version)), Err(Errno::PROTO));
    }
}

#[test]
fn file_of_the_host_is_read() {
    let guest = Guest::new();
    fs::write(guest.host("a"), "content").unwrap();
    let node = guest.lookup(ROOT, "a").unwrap();
    let attributes = guest.attributes(node).unwrap();
    assert_eq!((attributes.size, attributes.owner, attributes.links), (7, (0, 0), 1));
    let handle = guest.open(node, 0).unwrap();
    assert_eq!(guest.read(handle, 0, 100).unwrap(), b"content");
    assert_eq!(guest.read(handle, 3, 2).unwrap(), b"te");
    assert_eq!(guest.read(handle, 7, 2).unwrap(), b"");
    assert_eq!(guest.write(handle, 0, b"x"), Err(Errno::BADF));
    guest.release(handle);
    assert_eq!(guest.read(handle, 0, 1), Err(Errno::BADF));
    assert_eq!(guest.lookup(ROOT, "b"), Err(Errno::NOENT));
}

#[test]
fn file_of_the_guest_is_on_the_host() {
    let guest = Guest::new();
    let flags = READ_WRITE | EXCLUSIVE;
    let (node, handle) = guest.create(ROOT, "a", flags, 0o100_640).unwrap();
    assert_eq!(guest.write(handle, 2, b"abc").unwrap(), 3);
    assert_eq!(fs::read(guest.host("a")).unwrap(), b"\0\0abc");
    assert_eq!(fs::metadata(guest.host("a")).unwrap().mode(), 0o100_640);
    assert_eq!(guest.attributes(node).unwrap().size, 5);
    assert_eq!(guest.create(ROOT, "a", flags, 0o644), Err(Errno::EXIST));
    let (again, other) = guest.create(ROOT, "a", READ_WRITE, 0o600).unwrap();
    assert_eq!(again, node);
    assert_eq!(guest.read(other, 0, 9).unwrap(), b"\0\0abc");
    let truncating = guest.open(node, WRITE_ONLY | TRUNCATE).unwrap();
    assert_eq!(fs::read(guest.host("a")).unwrap(), b"");
    // What is written at the end is at the end, wherever the guest thinks that it is.
    guest.write(truncating, 0, b"one").unwrap();
    guest.write_as(truncating, 0, b"two", (0, APPEND)).unwrap();
    guest.write_as(truncating, 0, b"O", (abi::WRITE_CACHE, APPEND)).unwrap();
    assert_eq!(fs::read(guest.host("a")).unwrap(), b"Onetwo");
}

#[test]
fn modes_are_those_that_the_guest_asks_for() {
    let guest = Guest::new();
    for (number, mode) in [0o777, 0o666, 0o1777, 0o200, 0].into_iter().enumerate() {
        let body = [&words(&[mode, 0])[..], &text(&format!("folder{number}"))].concat();
        guest.ask(code::MKDIR, ROOT, &body).unwrap();
        let found = fs::metadata(guest.host(&format!("folder{number}"))).unwrap();
        assert_eq!(found.mode() & 0o7777, mode);
        let node = guest.make_node(ROOT, &format!("node{number}"), 0o100_000 | mode).unwrap();
        assert_eq!(guest.attributes(node).unwrap().mode, 0o100_000 | mode);
        let changed = Fields { mode: 0o421, ..Fields::default() };
        assert_eq!(guest.set(node, set::MODE, changed).unwrap().mode, 0o100_421);
    }
    let pipe = guest.make_node(ROOT, "pipe", 0o010_642).unwrap();
    assert_eq!(guest.attributes(pipe).unwrap().mode, 0o010_642);
}

#[test]
fn owner_is_the_named_one_and_stays() {
    let guest = Guest::with(|folder| folder.owned_by(999, 99));
    let (node, _) = guest.create(ROOT, "a", READ_WRITE, 0o644).unwrap();
    assert_eq!(guest.attributes(node).unwrap().owner, (999, 99));
    let own = Fields { uid: 999, gid: 99, ..Fields::default() };
    assert_eq!(guest.set(node, set::UID | set::GID, own).unwrap().owner, (999, 99));
    for (valid, uid, gid) in [(set::UID, 0, 0), (set::GID, 0, 0), (set::UID | set::GID, 999, 98)] {
        let fields = Fields { uid, gid, ..Fields::default() };
        assert_eq!(guest.set(node, valid, fields), Err(Errno::PERM));
    }
    let found = fs::metadata(guest.host("a")).unwrap();
    assert_eq!(found.uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn size_and_times_are_set() {
    let guest = Guest::new();
    let (node, handle) = guest.create(ROOT, "a", READ_WRITE, 0o644).unwrap();
    let fields = Fields { size: 1 << 30, handle, ..Fields::default() };
    assert_eq!(guest.set(node, set::SIZE, fields).unwrap().size, 1 << 30);
    assert_eq!(guest.set(node, set::SIZE | set::HANDLE, fields).unwrap().size, 1 << 30);
    guest.set(node, set::ATIME | set::MTIME, Fields::default()).unwrap();
    let found = fs::metadata(guest.host("a")).unwrap();
    assert_eq!(
        (found.atime(), found.atime_nsec(), found.mtime(), found.mtime_nsec()),
        (1, 4, 2, 5)
    );
    let link = guest.make_link(ROOT, "link", "a").unwrap();
    guest.set(link, set::MTIME, Fields::default()).unwrap();
    assert_eq!(fs::symlink_metadata(guest.host("link")).unwrap().mtime(), 2);
    guest.set(node, set::MTIME | set::MTIME_NOW, Fields::default()).unwrap();
    assert!(fs::metadata(guest.host("a")).unwrap().mtime() > 1_000_000_000);
    assert_eq!(guest.set(ROOT, set::SIZE, fields), Err(Errno::INVAL));
}

#[test]
fn folder_is_read_in_pieces() {
    let guest = Guest::new();
    let mut expected = vec![".".to_owned(), "..".to_owned()];
    for number in 0..500 {
        expected.push(format!("a file with a name of some length {number:03}"));
        fs::write(guest.host(&expected[number + 2]), "").unwrap();
    }
    fs::create_dir(guest.host("zz")).unwrap();
    expected.push("zz".to_owned());
    let handle = guest.open_folder(ROOT).unwrap();
    for size in [200, 4096, 1 << 20] {
        let (mut found, mut offset) = (Vec::new(), 0);
        loop {
            let items = guest.items(handle, offset, size).unwrap();
            let Some(last) = items.last() else { break };
            offset = last.next;
            found.extend(items);
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        let kinds: Vec<_> = found.iter().map(|item| item.kind).collect();
        assert_eq!(found.iter().map(|item| &*item.name).collect::<Vec<_>>(), expected);
        assert_eq!((kinds[0], kinds[2], kinds[502]), (4, 8, 4));
    }
    let (_, file) = guest.create(ROOT, "file", READ_WRITE, 0o644).unwrap();
    assert_eq!(guest.items(file, 0, 4096), Err(Errno::NOTDIR));
}

#[test]
fn renamed_file_and_what_is_below_a_renamed_folder_keep_their_nodes() {
    let guest = Guest::new();
    let folder = guest.make_folder(ROOT, "folder").unwrap();
    let (node, _) = guest.create(folder, "a", READ_WRITE, 0o644).unwrap();
    guest.rename((ROOT, "folder"), (ROOT, "moved"), 0).unwrap();
    assert_eq!(guest.attributes(node).unwrap().size, 0);
    guest.rename((folder, "a"), (ROOT, "b"), 0).unwrap();
    assert_eq!(guest.lookup(ROOT, "b"), Ok(node));
    assert!(guest.host("moved").is_dir() && guest.host("b").is_file());
    assert_eq!(guest.rename((ROOT, "b"), (ROOT, "moved"), 1), Err(Errno::EXIST));
    guest.rename((ROOT, "b"), (ROOT, "moved"), 2).unwrap();
    assert!(guest.host("b").is_dir() && guest.host("moved").is_file());
    assert_eq!((guest.lookup(ROOT, "b"), guest.lookup(ROOT, "moved")), (Ok(folder), Ok(node)));
    for flags in [4, 8, u32::MAX] {
        assert_eq!(guest.rename((ROOT, "b"), (ROOT, "c"), flags), Err(Errno::INVAL));
    }
}

#[test]
fn file_without_a_name_is_reached_by_its_handle() {
    let guest = Guest::new();
    let (node, handle) = guest.create(ROOT, "a", READ_WRITE, 0o644).unwrap();
    let second = guest.open(node, 0).unwrap();
    guest.unlink(ROOT, "a").unwrap();
    guest.write(handle, 0, b"still there").unwrap();
    assert_eq!(guest.attributes(node).unwrap().size, 11);
    let fields = Fields { mode: 0o600, ..Fields::default() };
    assert_eq!(guest.set(node, set::MODE, fields).unwrap().mode, 0o100_600);
    guest.release(second);
    assert_eq!(guest.attributes(node).unwrap().links, 0);
    guest.release(handle);
    assert_eq!(guest.attributes(node), Err(Errno::STALE));
    // A new file of the name is another one.
    let (other, _) = guest.create(ROOT, "a", READ_WRITE, 0o644).unwrap();
    assert_ne!(other, node);
    assert_eq!(guest.attributes(node), Err(Errno::STALE));
}

#[test]
fn unnamed_file_gets_a_name() {
    let guest = Guest::new();
    let body = [&words(&[READ_WRITE, 0o100_600, 0, 0])[..], &text("ignored")].concat();
    let answer = match guest.ask(code::TMPFILE, ROOT, &body) {
        // Not every file system of a host has such files.
        Err(Errno::OPNOTSUPP) => return,
        answer => answer.unwrap(),
    };
    let (node, handle) = (long(&answer, 0), long(&answer, 128));
    guest.write(handle, 0, b"content").unwrap();
    assert_eq!(fs::read_dir(guest.host("")).unwrap().count(), 0);
    assert_eq!(guest.link(node, ROOT, "named"), Ok(node));
    assert_eq!(fs::read(guest.host("named")).unwrap(), b"content");
    guest.release(handle);
    assert_eq!(guest.attributes(node).unwrap().size, 7);
}

#[test]
fn links_lead_where_they_say_in_the_guest_only() {
    let guest = Guest::new();
    let node = guest.make_link(ROOT, "link", "/etc/passwd").unwrap();
    assert_eq!(guest.ask(code::READLINK, node, &[]).unwrap(), b"/etc/passwd");
    assert_eq!(guest.attributes(node).unwrap().mode & 0o170_000, 0o120_000);
    assert_eq!(guest.open(node, 0), Err(Errno::ACCESS));
    let hard = guest.link(node, ROOT, "hard").unwrap();
    assert_eq!(hard, node);
    assert_eq!(guest.attributes(node).unwrap().links, 2);
    let (file, _) = guest.create(ROOT, "a", READ_WRITE, 0o644).unwrap();
    assert_eq!(guest.link(file, ROOT, "b"), Ok(file));
    assert_eq!(guest.link(file, ROOT, "b"), Err(Errno::EXIST));
    // Whatever name goes, the file is known by the other.
    guest.unlink(ROOT, "b").unwrap();
    assert_eq!(guest.lookup(ROOT, "a"), Ok(file));
    assert_eq!(guest.attributes(file).unwrap().links, 1);
}

#[test]
fn extended_attributes_of_users_pass() {
    let guest = Guest::new();
    let (node, _) = guest.create(ROOT, "a", READ_WRITE, 0o644).unwrap();
    match guest.set_value(node, "user.key", b"value") {
        // Not every file system of a host has them.
        Err(Errno::OPNOTSUPP) => return,
        set => set.unwrap(),
    }
    assert_eq!(guest.value(node, "user.key", 100).unwrap(), b"value");
    assert_eq!(guest.value(node, "user.key", 0).unwrap(), words(&[5, 0]));
    assert_eq!(guest.value(node, "user.key", 4), Err(Errno::RANGE));
    assert_eq!(guest.value(node, "user.none", 4), Err(Errno::NODATA));
    assert_eq!(guest.ask(code::LISTXATTR, node, &words(&[100, 0])).unwrap(), b"user.key\0");
    assert_eq!(guest.ask(code::LISTXATTR, node, &words(&[0, 0])).unwrap(), words(&[9, 0]));
    guest.ask(code::REMOVEXATTR, node, &text("user.key")).unwrap();
    assert_eq!(guest.value(node, "user.key", 4), Err(Errno::NODATA));
    for name in ["security.capability", "trusted.a", "system.posix_acl_access", "nonsense"] {
        assert_eq!(guest.set_value(node, name, b""), Err(Errno::OPNOTSUPP));
        assert_eq!(guest.value(node, name, 4), Err(Errno::OPNOTSUPP));
    }
}

#[test]
fn holes_are_made_found_and_copied() {
    let guest = Guest::new();
    let (_, from) = guest.create(ROOT, "from", READ_WRITE, 0o644).unwrap();
    let (_, to) = guest.create(ROOT, "to", READ_WRITE, 0o644).unwrap();
    guest.write(from, 1 << 20, b"data").unwrap();
    let seek = |whence| {
        let body = [longs(&[from, 0]), words(&[whence, 0])].concat();
        guest.ask(code::LSEEK, 0, &body).map(|answer| long(&answer, 0))
    };
    assert_eq!((seek(3), seek(4)), (Ok(1 << 20), Ok(0)));
    assert_eq!(seek(0), Err(Errno::INVAL));
    let allocate = |mode| {
        let body = [longs(&[from, 0, 4096]), words(&[mode, 0])].concat();
        guest.ask(code::FALLOCATE, 0, &body)
    };
    for mode in [0, 1, 3] {
        assert_eq!(allocate(mode), Ok(Vec::new()), "{mode}");
    }
    assert_eq!(allocate(1 << 20), Err(Errno::OPNOTSUPP));
    let body = longs(&[from, 1 << 20, 0, to, 0, 100, 0]);
    assert_eq!(word(&guest.ask(code::COPY_FILE_RANGE, 0, &body).unwrap(), 0), 4);
    assert_eq!(guest.read(to, 0, 9).unwrap(), b"data");
    for operation in [code::FSYNC, code::FSYNCDIR] {
        let body = [longs(&[from]), words(&[1, 0])].concat();
        assert_eq!(guest.ask(operation, 0, &body), Ok(Vec::new()));
    }
    assert_eq!(guest.ask(code::SYNCFS, ROOT, &[0; 8]), Ok(Vec::new()));
    assert_eq!(guest.ask(code::STATFS, ROOT, &[]).unwrap().len(), 80);
}

#[test]
fn change_of_the_host_is_seen() {
    let guest = Guest::new();
    fs::write(guest.host("a"), "one").unwrap();
    let node = guest.lookup(ROOT, "a").unwrap();
    fs::write(guest.host("a"), "longer").unwrap();
    assert_eq!(guest.attributes(node).unwrap().size, 6);
    // Another file in its place is not the one that the guest knows.
    fs::write(guest.host("b"), "other").unwrap();
    fs::rename(guest.host("b"), guest.host("a")).unwrap();
    assert_eq!(guest.attributes(node), Err(Errno::STALE));
    let other = guest.lookup(ROOT, "a").unwrap();
    assert_ne!(other, node);
    // A file that the host moved is found where it is.
    fs::rename(guest.host("a"), guest.host("c")).unwrap();
    assert_eq!(guest.attributes(other), Err(Errno::STALE));
    assert_eq!(guest.lookup(ROOT, "c"), Ok(other));
    assert_eq!(guest.attributes(other).unwrap().size, 5);
}

#[test]
fn unreadable_file_is_refused_to_users() {
    if rustix::process::geteuid().is_root() {
        // Root may read everything.
        return;
    }
    let guest = Guest::new();
    fs::write(guest.host("a"), "one").unwrap();
    fs::set_permissions(guest.host("a"), fs::Permissions::from_mode(0o000)).unwrap();
    let node = guest.lookup(ROOT, "a").unwrap();
    assert_eq!(guest.open(node, 0), Err(Errno::ACCESS));
}
