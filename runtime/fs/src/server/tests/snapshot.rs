//! A guest that continues from a snapshot, in a folder that may have changed.

use std::fs;

use rustix::io::Errno;
use supermachine_formats::snapshot::device::{ShareHandle, ShareNode};

use super::client::Guest;
use crate::abi::ROOT;
use crate::request::{EXCLUSIVE, READ_WRITE, TRUNCATE};
use crate::{HostFolder, Known, Server};

#[test]
fn open_files_go_on_where_they_still_are() {
    let guest = Guest::new();
    let folder = guest.make_folder(ROOT, "folder").unwrap();
    let (kept, handle) =
        guest.create(folder, "kept", READ_WRITE | TRUNCATE | EXCLUSIVE, 0o644).unwrap();
    guest.write(handle, 0, b"before").unwrap();
    let (lost, lost_handle) = guest.create(folder, "lost", READ_WRITE, 0o644).unwrap();
    let (unnamed, unnamed_handle) = guest.create(ROOT, "unnamed", READ_WRITE, 0o644).unwrap();
    guest.unlink(ROOT, "unnamed").unwrap();
    let listing = guest.open_folder(folder).unwrap();
    fs::remove_file(guest.host("folder/lost")).unwrap();
    let guest = guest.resumed();
    assert_eq!(guest.read(handle, 0, 99).unwrap(), b"before");
    guest.write(handle, 6, b", after").unwrap();
    assert_eq!(fs::read(guest.host("folder/kept")).unwrap(), b"before, after");
    assert_eq!(guest.items(listing, 0, 4096).unwrap().len(), 3);
    for (node, handle) in [(lost, lost_handle), (unnamed, unnamed_handle)] {
        assert_eq!(guest.read(handle, 0, 9), Err(Errno::STALE));
        assert_eq!(guest.attributes(node), Err(Errno::STALE));
    }
    // A known name keeps its node, whether it was looked at before or not.
    assert_eq!(guest.lookup(folder, "kept"), Ok(kept));
    let guest = guest.resumed();
    assert_eq!(guest.lookup(ROOT, "folder"), Ok(folder));
    assert_eq!(guest.lookup(folder, "kept"), Ok(kept));
    let new = guest.make_folder(ROOT, "new").unwrap();
    assert!(![folder, kept, lost, unnamed].contains(&new));
}

#[test]
fn other_folder_stands_for_the_first() {
    let guest = Guest::new();
    let (node, handle) = guest.create(ROOT, "a", READ_WRITE, 0o644).unwrap();
    let known = guest.server.known();
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("a"), "other").unwrap();
    let server = Server::resume(&HostFolder::new(other.path(), "/project"), &known).unwrap();
    let guest = Guest { server, ..guest };
    assert_eq!(guest.attributes(node).unwrap().size, 5);
    assert_eq!(guest.read(handle, 0, 9).unwrap(), b"other");
}

#[test]
fn record_that_contradicts_itself_is_harmless() {
    let node = |id, parent, name: &str| ShareNode {
        id,
        parent,
        name: name.as_bytes().to_vec(),
        lookups: 1,
    };
    let nodes = vec![
        node(0, 1, "zero"),
        node(1, 1, "root"),
        node(2, 3, "one"),
        node(3, 2, "circle"),
        node(4, 4, "itself"),
        node(5, 99, "lost"),
        node(6, 1, ".."),
        node(7, 1, "a/b"),
        node(8, 1, "twice"),
        node(8, 1, "again"),
        node(u64::MAX, 1, "last"),
    ];
    let handle = |id, node| ShareHandle { id, node, flags: u32::MAX, is_folder: id % 2 == 0 };
    let handles = vec![handle(1, 2), handle(2, 6), handle(3, 1), handle(u64::MAX, 1)];
    let home = tempfile::tempdir().unwrap();
    let folder = HostFolder::new(home.path(), "/project");
    let server = Server::resume(&folder, &Known { nodes, handles }).unwrap();
    let guest = Guest { server, ..Guest::new() };
    for number in (2..10).chain([u64::MAX]) {
        assert!(guest.attributes(number).is_err(), "{number}");
        assert!(guest.read(number, 0, 9).is_err(), "{number}");
        assert!(guest.items(number, 0, 9).is_err(), "{number}");
        guest.forget(number, 9);
    }
    assert!(guest.make_folder(ROOT, "new").is_ok());
    assert!(guest.server.known().nodes.len() > 1);
}
