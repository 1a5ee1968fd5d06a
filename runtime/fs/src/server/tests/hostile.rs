//! Guests that try to get out of the folder, to use up the host, or to confuse the server.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::io::Errno;

use super::client::{Fields, Guest, longs, request, text, words};
use crate::abi::{ROOT, operation as code, set};
use crate::request::{READ_WRITE, TRUNCATE, WRITE_ONLY};

/// Every operation of the protocol, those that the server does not have as well.
const OPERATIONS: std::ops::Range<u32> = 0..60;

#[test]
fn name_that_is_no_step_in_a_folder_is_refused() {
    let guest = Guest::new();
    fs::create_dir(guest.host("folder")).unwrap();
    let folder = guest.lookup(ROOT, "folder").unwrap();
    for name in ["..", ".", "", "a/b", "/", "/etc", "../secret", "folder/../../secret"] {
        for parent in [ROOT, folder] {
            assert_eq!(guest.lookup(parent, name), Err(Errno::INVAL), "{name}");
            assert_eq!(guest.create(parent, name, READ_WRITE, 0o644), Err(Errno::INVAL), "{name}");
            assert_eq!(guest.make_folder(parent, name), Err(Errno::INVAL), "{name}");
            assert_eq!(guest.make_node(parent, name, 0o644), Err(Errno::INVAL), "{name}");
            assert_eq!(guest.make_link(parent, name, "a"), Err(Errno::INVAL), "{name}");
            assert_eq!(guest.unlink(parent, name), Err(Errno::INVAL), "{name}");
            assert_eq!(guest.ask(code::RMDIR, parent, &text(name)), Err(Errno::INVAL), "{name}");
            assert_eq!(guest.link(folder, parent, name), Err(Errno::INVAL), "{name}");
            for (from, to) in [(name, "a"), ("folder", name)] {
                assert_eq!(
                    guest.rename((parent, from), (ROOT, to), 0),
                    Err(Errno::INVAL),
                    "{name}"
                );
            }
        }
    }
    assert_eq!(guest.lookup(ROOT, &"n".repeat(256)), Err(Errno::NAMETOOLONG));
    assert_eq!(fs::read(guest.outside("secret")).unwrap(), b"secret");
}

#[test]
fn links_are_followed_neither_at_the_end_of_a_way_nor_within() {
    let guest = Guest::new();
    for (name, target) in [
        ("absolute", guest.outside("")),
        ("relative", "..".into()),
        ("file", guest.outside("secret")),
        ("proc", "/proc/self/root".into()),
        ("inside", ".".into()),
    ] {
        symlink(target, guest.host(name)).unwrap();
        let link = guest.lookup(ROOT, name).unwrap();
        assert_eq!(guest.lookup(link, "secret"), Err(Errno::NOTDIR), "{name}");
        assert_eq!(guest.open_folder(link), Err(Errno::NOTDIR), "{name}");
        for flags in [0, READ_WRITE, WRITE_ONLY | TRUNCATE] {
            assert_eq!(guest.open(link, flags), Err(Errno::ACCESS), "{name}");
            assert_eq!(guest.create(ROOT, name, flags, 0o644), Err(Errno::ACCESS), "{name}");
        }
        let fields = Fields { mode: 0o611, ..Fields::default() };
        assert!(guest.set(link, set::MODE, fields).is_err(), "{name}");
        guest.set(link, set::MTIME, fields).unwrap();
        assert_eq!(guest.set(link, set::SIZE, fields), Err(Errno::INVAL), "{name}");
        assert_eq!(guest.set_value(link, "user.a", b"b"), Err(Errno::OPNOTSUPP), "{name}");
        assert_eq!(guest.create(link, "new", READ_WRITE, 0o644), Err(Errno::NOTDIR), "{name}");
    }
    for name in ["", "secret"] {
        let found = fs::metadata(guest.outside(name)).unwrap();
        assert!(found.mode() & 0o777 != 0o611 && found.mtime() != 2, "{name}");
    }
    assert_eq!(fs::read(guest.outside("secret")).unwrap(), b"secret");
    assert!(!guest.outside("new").exists());
}

#[test]
fn folder_that_becomes_a_link_under_the_guest_leads_nowhere() {
    let guest = Guest::new();
    fs::create_dir(guest.host("folder")).unwrap();
    fs::write(guest.host("folder/secret"), "mine").unwrap();
    let folder = guest.lookup(ROOT, "folder").unwrap();
    let file = guest.lookup(folder, "secret").unwrap();
    fs::rename(guest.host("folder"), guest.host("moved")).unwrap();
    symlink("..", guest.host("folder")).unwrap();
    assert_eq!(guest.open(file, 0), Err(Errno::STALE));
    assert_eq!(guest.lookup(folder, "secret"), Err(Errno::STALE));
    assert_eq!(guest.create(folder, "new", READ_WRITE, 0o644), Err(Errno::STALE));
    assert_eq!(guest.rename((folder, "secret"), (ROOT, "got"), 0), Err(Errno::STALE));
    assert!(!guest.outside("new").exists() && guest.outside("secret").exists());
}

#[test]
fn folder_that_the_host_moves_out_is_out_of_reach() {
    let guest = Guest::new();
    fs::create_dir(guest.host("folder")).unwrap();
    fs::write(guest.host("folder/a"), "mine").unwrap();
    let file = guest.walk("folder/a").unwrap();
    let folder = guest.lookup(ROOT, "folder").unwrap();
    fs::rename(guest.host("folder"), guest.outside("private")).unwrap();
    assert_eq!(guest.attributes(file), Err(Errno::STALE));
    assert_eq!(guest.lookup(folder, "a"), Err(Errno::STALE));
    assert_eq!(guest.make_folder(folder, "new"), Err(Errno::STALE));
    assert_eq!(guest.open_folder(folder), Err(Errno::STALE));
}

#[test]
fn folder_above_is_not_shown() {
    let guest = Guest::new();
    let handle = guest.open_folder(ROOT).unwrap();
    let body = [longs(&[handle, 0]), words(&[4096, 0]), longs(&[0, 0])].concat();
    let answer = guest.ask(code::READDIR, ROOT, &body).unwrap();
    let above = fs::metadata(guest.outside("")).unwrap().ino().to_le_bytes();
    assert!(answer.chunks(8).all(|chunk| chunk != above));
}

#[test]
fn devices_and_set_ids_are_refused() {
    let guest = Guest::new();
    for kind in [0o020_000, 0o060_000, 0o040_000, 0o120_000] {
        assert_eq!(guest.make_node(ROOT, "device", kind | 0o666), Err(Errno::PERM));
    }
    let (node, _) = guest.create(ROOT, "a", READ_WRITE, 0o106_755).unwrap();
    assert_eq!(fs::metadata(guest.host("a")).unwrap().mode(), 0o100_755);
    for mode in [0o4755, 0o2755, 0o6755] {
        let fields = Fields { mode, ..Fields::default() };
        assert_eq!(guest.set(node, set::MODE, fields), Err(Errno::PERM));
    }
    let folder = guest.make_folder(ROOT, "folder").unwrap();
    let fields = Fields { mode: 0o4755, ..Fields::default() };
    assert_eq!(guest.set(folder, set::MODE, fields), Err(Errno::PERM));
    let fields = Fields { mode: 0o3775, ..Fields::default() };
    assert_eq!(guest.set(folder, set::MODE, fields).unwrap().mode, 0o043_775);
    // A pipe is for the guest's own programs.
    let pipe = guest.make_node(ROOT, "pipe", 0o010_666).unwrap();
    for flags in [0, WRITE_ONLY, READ_WRITE] {
        assert_eq!(guest.open(pipe, flags), Err(Errno::ACCESS));
        assert_eq!(guest.create(ROOT, "pipe", flags, 0o666), Err(Errno::ACCESS));
    }
}

#[test]
fn read_only_folder_refuses_every_change() {
    let guest = Guest::with(|folder| folder.read_only());
    fs::write(guest.host("a"), "content").unwrap();
    fs::create_dir(guest.host("folder")).unwrap();
    let before = fs::metadata(guest.host("a")).unwrap();
    let node = guest.lookup(ROOT, "a").unwrap();
    for flags in [WRITE_ONLY, READ_WRITE, TRUNCATE, 3] {
        assert_eq!(guest.open(node, flags), Err(Errno::ROFS));
        assert_eq!(guest.create(ROOT, "a", flags, 0o644), Err(Errno::ROFS));
    }
    let all = set::MODE | set::SIZE | set::ATIME | set::MTIME | set::KILL_SUIDGID;
    assert_eq!(guest.set(node, all, Fields::default()), Err(Errno::ROFS));
    assert_eq!(guest.make_folder(ROOT, "new"), Err(Errno::ROFS));
    assert_eq!(guest.make_node(ROOT, "new", 0o644), Err(Errno::ROFS));
    assert_eq!(guest.make_link(ROOT, "new", "a"), Err(Errno::ROFS));
    assert_eq!(guest.link(node, ROOT, "new"), Err(Errno::ROFS));
    assert_eq!(guest.unlink(ROOT, "a"), Err(Errno::ROFS));
    assert_eq!(guest.ask(code::RMDIR, ROOT, &text("folder")), Err(Errno::ROFS));
    assert_eq!(guest.rename((ROOT, "a"), (ROOT, "b"), 0), Err(Errno::ROFS));
    assert_eq!(guest.set_value(node, "user.a", b"b"), Err(Errno::ROFS));
    assert_eq!(guest.ask(code::REMOVEXATTR, node, &text("user.a")), Err(Errno::ROFS));
    let body = [&words(&[READ_WRITE, 0o600, 0, 0])[..], &text("a")].concat();
    assert_eq!(guest.ask(code::TMPFILE, ROOT, &body), Err(Errno::ROFS));
    // What reads works, and its handles cannot be written to.
    let handle = guest.open(node, 0).unwrap();
    assert_eq!(guest.read(handle, 0, 9).unwrap(), b"content");
    assert_eq!(guest.write(handle, 0, b"x"), Err(Errno::ROFS));
    for (operation, body) in [
        (code::FALLOCATE, longs(&[handle, 0, 9, 0])),
        (code::COPY_FILE_RANGE, longs(&[handle, 0, 0, handle, 0, 1, 0])),
    ] {
        assert_eq!(guest.ask(operation, node, &body), Err(Errno::ROFS));
    }
    let after = fs::metadata(guest.host("a")).unwrap();
    assert_eq!(
        (after.mtime_nsec(), after.ctime_nsec()),
        (before.mtime_nsec(), before.ctime_nsec())
    );
    assert_eq!(fs::read_dir(guest.host("")).unwrap().count(), 2);
}

#[test]
fn known_files_take_no_descriptors_and_are_bounded() {
    let guest = Guest::new();
    guest.server.nodes().limit(200);
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    for number in 0..250 {
        fs::write(guest.host(&number.to_string()), "").unwrap();
    }
    let before = descriptors();
    let nodes: Vec<_> = (0..250).map(|number| guest.lookup(ROOT, &number.to_string())).collect();
    // Other tests use some as well.
    assert!(descriptors() < before + 100);
    assert!(nodes[..200].iter().all(Result::is_ok));
    assert!(nodes[200..].iter().all(|node| *node == Err(Errno::NFILE)));
    let first = nodes[0].unwrap();
    guest.forget(first, 1);
    assert_eq!(guest.attributes(first), Err(Errno::STALE));
    assert!(guest.lookup(ROOT, "249").is_ok());
    let batch = nodes[1..200].iter().flat_map(|node| [node.unwrap(), u64::MAX]);
    let body = [words(&[199, 0]), longs(&batch.collect::<Vec<_>>())].concat();
    guest.tell(code::BATCH_FORGET, 0, &body);
    assert_eq!(guest.server.nodes().count(), 1);
}

#[test]
fn open_files_are_bounded() {
    let guest = Guest::new();
    guest.server.handles().limit(3);
    let (node, first) = guest.create(ROOT, "a", READ_WRITE, 0o644).unwrap();
    guest.open(node, 0).unwrap();
    guest.open_folder(ROOT).unwrap();
    assert_eq!(guest.open(node, 0), Err(Errno::NFILE));
    assert_eq!(guest.open_folder(ROOT), Err(Errno::NFILE));
    assert_eq!(guest.create(ROOT, "b", READ_WRITE, 0o644), Err(Errno::NFILE));
    assert!(!guest.host("b").exists());
    guest.release(first);
    assert!(guest.open(node, 0).is_ok());
    // A guest that mounts the folder anew has nothing open.
    guest.init().unwrap();
    assert_eq!(guest.attributes(node), Err(Errno::STALE));
    assert!(guest.create(ROOT, "b", READ_WRITE, 0o644).is_ok());
}

#[test]
fn folder_is_kept_while_what_is_in_it_is_known() {
    let guest = Guest::new();
    fs::create_dir_all(guest.host("a/b")).unwrap();
    fs::write(guest.host("a/b/c"), "deep").unwrap();
    let file = guest.walk("a/b/c").unwrap();
    let (a, b) = (guest.lookup(ROOT, "a").unwrap(), guest.walk("a/b").unwrap());
    guest.forget(a, 100);
    guest.forget(b, 100);
    assert_eq!(guest.attributes(file).unwrap().size, 4);
    guest.forget(file, 100);
    assert_eq!(guest.server.nodes().count(), 0);
}

#[test]
fn folders_deeper_than_a_path_are_reached() {
    let guest = Guest::new();
    let name = "n".repeat(250);
    let mut parent = ROOT;
    for _ in 0..40 {
        parent = guest.make_folder(parent, &name).unwrap();
    }
    let (node, handle) = guest.create(parent, "a", READ_WRITE, 0o644).unwrap();
    guest.write(handle, 0, b"deep").unwrap();
    assert_eq!(guest.attributes(node).unwrap().size, 4);
    let refused = (0..1000).find_map(|_| match guest.make_folder(parent, &name) {
        Ok(deeper) => {
            parent = deeper;
            None
        }
        Err(errno) => Some(errno),
    });
    assert_eq!(refused, Some(Errno::NAMETOOLONG));
}

#[test]
fn unknown_nodes_and_handles_are_refused() {
    let guest = Guest::new();
    for number in [0, 2, 99, u64::MAX] {
        assert_eq!(guest.attributes(number), Err(Errno::STALE));
        assert_eq!(guest.lookup(number, "a"), Err(Errno::STALE));
        assert_eq!(guest.open(number, 0), Err(Errno::STALE));
        assert_eq!(guest.read(number, 0, 9), Err(Errno::BADF));
        assert_eq!(guest.write(number, 0, b"a"), Err(Errno::BADF));
        assert_eq!(guest.items(number, 0, 99), Err(Errno::BADF));
        guest.release(number);
        guest.forget(number, 1);
    }
}

#[test]
fn request_that_is_cut_off_or_of_another_length_changes_nothing() {
    let guest = Guest::new();
    fs::write(guest.host("a"), "content").unwrap();
    let node = guest.lookup(ROOT, "a").unwrap();
    let whole = request(code::UNLINK, ROOT, b"a\0");
    for length in 0..whole.len() {
        assert!(guest.server.answer(&whole[..length], 4096).is_empty());
    }
    for operation in OPERATIONS.filter(|operation| *operation != code::SYNCFS) {
        for length in 0..100 {
            for byte in [0, 1, 0xff] {
                let bytes = request(operation, node, &vec![byte; length]);
                for room in [0, 15, 16, 4096] {
                    assert!(guest.server.answer(&bytes, room).len() <= room);
                }
            }
        }
    }
    assert_eq!(fs::read_dir(guest.host("")).unwrap().count(), 1);
    assert_eq!(fs::read(guest.outside("secret")).unwrap(), b"secret");
}

#[test]
fn answer_that_does_not_fit_is_an_error_that_does() {
    let guest = Guest::new();
    let attributes = request(code::GETATTR, ROOT, &[0; 16]);
    let answer = guest.server.answer(&attributes, 50);
    assert_eq!((answer.len(), &answer[4..8]), (16, &(-5_i32).to_le_bytes()[..]));
    assert!(guest.server.answer(&attributes, 15).is_empty());
}
