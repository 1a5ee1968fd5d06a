use std::collections::BTreeMap;
use std::io;

use super::super::content::Content;
use super::super::error::{EntryError, HeaderProblem, LayerError};
use super::super::samples::Sample;
use super::super::source::Directories;
use super::super::spool::Spool;
use super::super::tree::{InodeId, Metadata, Node, Tree};
use super::{read_layer, read_layer_with};

/// Applies `layers` and lists the tree: a path and what is there.
fn listing(layers: &[Vec<u8>]) -> BTreeMap<String, String> {
    let (tree, contents) = stack(layers);
    let mut found = BTreeMap::new();
    list(&tree, &contents, tree.root(), "", &mut found);
    found
}

fn stack(layers: &[Vec<u8>]) -> (Tree, Vec<u8>) {
    let mut tree = Tree::new();
    let mut spool = Spool::new(io::Cursor::new(Vec::new()));
    for layer in layers {
        read_layer(layer.as_slice(), &mut tree, &mut spool).unwrap();
    }
    (tree, spool.finish().unwrap().into_inner())
}

fn list(
    tree: &Tree,
    contents: &[u8],
    id: InodeId,
    path: &str,
    found: &mut BTreeMap<String, String>,
) {
    for (name, link) in tree.children(id).unwrap() {
        let path = format!("{path}/{}", String::from_utf8_lossy(name));
        let what = match &tree.inode(link.inode).node {
            Node::Directory(_) => {
                list(tree, contents, link.inode, &path, found);
                "dir".to_owned()
            }
            Node::File(Content::Small(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            Node::File(Content::Spooled(content)) => {
                let mut bytes = vec![0; content.size as usize];
                for extent in &content.extents {
                    let (start, from) = (extent.start as usize, extent.spooled as usize);
                    let length = extent.length as usize;
                    bytes[start..start + length].copy_from_slice(&contents[from..from + length]);
                }
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Node::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
            Node::CharDevice { major, minor } => format!("char {major}:{minor}"),
            Node::BlockDevice { major, minor } => format!("block {major}:{minor}"),
            Node::Fifo => "fifo".to_owned(),
        };
        found.insert(path, what);
    }
}

fn expect(layers: &[Vec<u8>], expected: &[(&str, &str)]) {
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(path, what)| ((*path).into(), (*what).into())).collect();
    assert_eq!(listing(layers), expected);
}

fn find(tree: &Tree, path: &str) -> InodeId {
    path.split('/')
        .filter(|name| !name.is_empty())
        .fold(tree.root(), |id, name| tree.children(id).unwrap()[name.as_bytes()].inode)
}

fn metadata<'t>(tree: &'t Tree, path: &str) -> &'t Metadata {
    &tree.inode(find(tree, path)).metadata
}

fn failure(layers: &[Vec<u8>]) -> LayerError {
    let mut tree = Tree::new();
    let mut spool = Spool::new(io::empty());
    let results = layers.iter().map(|layer| read_layer(layer.as_slice(), &mut tree, &mut spool));
    results.collect::<Result<(), _>>().unwrap_err()
}

fn refusal(layers: &[Vec<u8>]) -> EntryError {
    match failure(layers) {
        LayerError::Entry { source, .. } => source,
        other => panic!("not refused as an entry: {other:?}"),
    }
}

fn lower() -> Vec<u8> {
    Sample::new().dir("d/").file("d/a", b"a1").file("d/b", b"b1").file("f", b"f1").finish()
}

#[test]
fn layer_with_every_kind_of_entry_is_applied() {
    let layer = Sample::new()
        .dir("d")
        .file("d/file", b"text")
        .symlink("d/link", "/anywhere/../else")
        .hard_link("d/hard", "d/file")
        .device(1, 3)
        .entry(b'3', b"d/null", b"", b"")
        .device(259, 70000)
        .entry(b'4', b"d/disk", b"", b"")
        .entry(b'6', b"d/fifo", b"", b"")
        .entry(b'7', b"d/contiguous", b"", b"c")
        .finish();
    expect(
        std::slice::from_ref(&layer),
        &[
            ("/d", "dir"),
            ("/d/file", "text"),
            ("/d/link", "-> /anywhere/../else"),
            ("/d/hard", "text"),
            ("/d/null", "char 1:3"),
            ("/d/disk", "block 259:70000"),
            ("/d/fifo", "fifo"),
            ("/d/contiguous", "c"),
        ],
    );
    let (tree, _) = stack(&[layer]);
    assert_eq!(find(&tree, "d/hard"), find(&tree, "d/file"));
}

#[test]
fn layer_replacing_a_file_keeps_the_upper_one() {
    let upper = Sample::new().file("f", b"f2").finish();
    expect(&[lower(), upper], &[("/d", "dir"), ("/d/a", "a1"), ("/d/b", "b1"), ("/f", "f2")]);
}

#[test]
fn whiteout_of_file_hides_it() {
    let upper = Sample::new().file("d/.wh.a", b"").file(".wh.f", b"").finish();
    expect(&[lower(), upper], &[("/d", "dir"), ("/d/b", "b1")]);
}

#[test]
fn whiteout_of_directory_hides_everything_below() {
    expect(&[lower(), Sample::new().file(".wh.d", b"").finish()], &[("/f", "f1")]);
}

#[test]
fn whiteout_of_nothing_changes_nothing() {
    let upper = Sample::new().file("none/.wh.a", b"").file("f/.wh.x", b"").file(".wh.zz", b"");
    assert_eq!(listing(&[lower(), upper.finish()]), listing(&[lower()]));
}

#[test]
fn whiteout_and_new_file_in_one_layer_keep_the_new_one_in_either_order() {
    let before = Sample::new().file(".wh.f", b"").file("f", b"f2").finish();
    let after = Sample::new().file("f", b"f2").file(".wh.f", b"").finish();
    for upper in [before, after] {
        assert_eq!(listing(&[lower(), upper])["/f"], "f2");
    }
}

#[test]
fn whiteout_and_new_directory_in_one_layer_hide_old_children_in_either_order() {
    let whiteout = |sample: Sample| sample.file(".wh.d", b"");
    let again = |sample: Sample| sample.mode(0o700).dir("d/").file("d/c", b"c2");
    let implied = |sample: Sample| sample.file("d/c", b"c2");
    for upper in [
        again(whiteout(Sample::new())).finish(),
        whiteout(again(Sample::new())).finish(),
        implied(whiteout(Sample::new())).finish(),
        whiteout(implied(Sample::new())).finish(),
    ] {
        expect(&[lower(), upper], &[("/d", "dir"), ("/d/c", "c2"), ("/f", "f1")]);
    }
    let upper = whiteout(implied(Sample::new())).finish();
    let (tree, _) = stack(&[Sample::new().mode(0o711).dir("d").finish(), upper]);
    assert_eq!(metadata(&tree, "d").mode, 0o755);
}

#[test]
fn whiteout_then_new_file_in_a_later_layer_shows_the_new_one() {
    let hide = Sample::new().file("d/.wh.a", b"").finish();
    let again = Sample::new().file("d/a", b"a3").finish();
    assert_eq!(listing(&[lower(), hide, again])["/d/a"], "a3");
}

#[test]
fn opaque_directory_hides_lower_children_only_in_either_order() {
    let first = Sample::new().file("d/.wh..wh..opq", b"").file("d/c", b"c2").finish();
    let last = Sample::new().file("d/c", b"c2").file("d/.wh..wh..opq", b"").finish();
    for upper in [first, last] {
        expect(&[lower(), upper], &[("/d", "dir"), ("/d/c", "c2"), ("/f", "f1")]);
    }
}

#[test]
fn kept_directory_changes_neither_a_directory_nor_a_link() {
    let below = Sample::new().mode(0o1777).dir("tmp").mode(0o700).dir("usr/lib");
    let below = below.symlink("lib", "usr/lib").file("usr/lib/a", b"a").finish();
    let above = Sample::new().mode(0o755).dir("tmp").dir("lib").dir("lib/b").dir("new/c").finish();
    let mut tree = Tree::new();
    let mut spool = Spool::new(io::Cursor::new(Vec::new()));
    read_layer(below.as_slice(), &mut tree, &mut spool).unwrap();
    read_layer_with(above.as_slice(), Directories::Keep, &mut tree, &mut spool).unwrap();
    let contents = spool.finish().unwrap().into_inner();
    let mut found = BTreeMap::new();
    list(&tree, &contents, tree.root(), "", &mut found);
    let expected = [
        ("/lib", "-> usr/lib"),
        ("/new", "dir"),
        ("/new/c", "dir"),
        ("/tmp", "dir"),
        ("/usr", "dir"),
        ("/usr/lib", "dir"),
        ("/usr/lib/a", "a"),
        ("/usr/lib/b", "dir"),
    ];
    let found: Vec<_> = found.iter().map(|(path, what)| (path.as_str(), what.as_str())).collect();
    assert_eq!(found, expected);
    assert_eq!((metadata(&tree, "tmp").mode, metadata(&tree, "usr/lib").mode), (0o1777, 0o700));
}

#[test]
fn opaque_directory_hides_in_depth_and_keeps_its_metadata() {
    let deep = Sample::new().mode(0o700).dir("d").mode(0o700).dir("d/e").file("d/e/old", b"");
    let upper = Sample::new().file("d/e/new", b"n").file("d/.wh..wh..opq", b"").finish();
    let layers = [deep.finish(), upper];
    expect(&layers, &[("/d", "dir"), ("/d/e", "dir"), ("/d/e/new", "n")]);
    let (tree, _) = stack(&layers);
    assert_eq!((metadata(&tree, "d").mode, metadata(&tree, "d/e").mode), (0o700, 0o755));
}

#[test]
fn opaque_root_hides_all_lower_layers() {
    let upper = Sample::new().file("new", b"n").file(".wh..wh..opq", b"").finish();
    expect(&[lower(), upper], &[("/new", "n")]);
}

#[test]
fn bookkeeping_of_old_drivers_is_left_out() {
    let upper =
        Sample::new().dir(".wh..wh.plnk").file(".wh..wh.plnk/1.2", b"x").file(".wh..wh.aufs", b"");
    assert_eq!(listing(&[lower(), upper.finish()]), listing(&[lower()]));
}

#[test]
fn whiteout_with_no_proper_name_is_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh...", ".wh.f/x"] {
        let upper = Sample::new().file(name, b"").finish();
        assert_eq!(refusal(&[lower(), upper]), EntryError::InvalidWhiteout, "{name}");
    }
}

#[test]
fn file_over_directory_and_directory_over_file_replace_each_other() {
    let upper = Sample::new().file("d", b"now a file").dir("f").file("f/x", b"x").finish();
    expect(&[lower(), upper], &[("/d", "now a file"), ("/f", "dir"), ("/f/x", "x")]);
}

#[test]
fn file_below_a_lower_file_turns_that_into_a_directory() {
    let upper = Sample::new().file("f/x", b"x").finish();
    assert_eq!(listing(&[lower(), upper])["/f/x"], "x");
    let same = Sample::new().file("f", b"").file("f/x", b"x").finish();
    assert_eq!(refusal(&[same]), EntryError::ParentNotDirectory);
}

#[test]
fn directory_over_symlink_replaces_it() {
    let low =
        Sample::new().dir("usr/lib").file("usr/lib/a", b"a").symlink("lib", "usr/lib").finish();
    let upper = Sample::new().dir("lib").file("lib/b", b"b").finish();
    let found = listing(&[low, upper]);
    assert_eq!(found["/lib/b"], "b");
    assert!(!found.contains_key("/usr/lib/b"));
}

#[test]
fn directory_described_again_keeps_its_children() {
    let upper = Sample::new().mode(0o1777).owner(7, 70_000).dir("d").finish();
    let layers = [lower(), upper];
    assert_eq!(listing(&layers), listing(&[lower()]));
    let (tree, _) = stack(&layers);
    let metadata = metadata(&tree, "d");
    assert_eq!((metadata.mode, metadata.uid, metadata.gid), (0o1777, 7, 70_000));
}

#[test]
fn metadata_of_entries_is_kept() {
    let capability = b"\x01\0\0\x02\n\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let layer = Sample::new()
        .mode(0o104_755)
        .owner(4_000_000_000, 65_536)
        .pax(&[
            ("mtime", b"1234567890.123456789"),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.note", b""),
            ("SCHILY.xattr.com.apple.provenance", b"x"),
        ])
        .file("bin/su", b"")
        .header(|header| header.as_old_mut().mtime = [0xff; 12])
        .file("old", b"")
        .finish();
    let (tree, _) = stack(&[layer]);
    let su = metadata(&tree, "bin/su");
    assert_eq!((su.mode, su.uid, su.gid), (0o4755, 4_000_000_000, 65_536));
    assert_eq!((su.mtime.seconds, su.mtime.nanoseconds), (1_234_567_890, 123_456_789));
    let names: Vec<&[u8]> = su.attributes.keys().map(Vec::as_slice).collect();
    assert_eq!(names, [b"security.capability".as_slice(), b"user.note"]);
    assert_eq!(su.attributes[b"security.capability".as_slice()], capability);
    assert_eq!(metadata(&tree, "old").mtime.seconds, -1);
    let implied = metadata(&tree, "bin");
    assert_eq!((implied.mode, implied.uid, implied.mtime.seconds), (0o755, 0, 0));
}

#[test]
fn root_described_by_an_entry_takes_its_metadata() {
    let (tree, _) = stack(&[Sample::new().mode(0o711).dir("./").file("a", b"").finish()]);
    assert_eq!(metadata(&tree, "").mode, 0o711);
    let not_directory = Sample::new().symlink("./", "/tmp").finish();
    assert_eq!(refusal(&[not_directory]), EntryError::RootNotDirectory);
}

#[test]
fn hard_link_to_a_lower_layer_shares_the_inode() {
    let layers = [lower(), Sample::new().hard_link("h", "/d/a").finish()];
    let (tree, _) = stack(&layers);
    assert_eq!(find(&tree, "h"), find(&tree, "d/a"));
    let replaced = Sample::new().file("d/a", b"a3").finish();
    let [low, link] = layers;
    let found = listing(&[low, link, replaced]);
    assert_eq!((found["/h"].as_str(), found["/d/a"].as_str()), ("a1", "a3"));
}

#[test]
fn hard_link_that_leads_nowhere_or_out_is_refused() {
    for (target, expected) in [
        ("none", EntryError::LinkTargetMissing),
        ("f/x", EntryError::LinkTargetMissing),
        ("d", EntryError::LinkToDirectory),
        ("/", EntryError::LinkToDirectory),
        ("../etc/passwd", EntryError::LinkOutsideRoot),
        ("d/../../f", EntryError::LinkOutsideRoot),
    ] {
        let upper = Sample::new().hard_link("h", target).finish();
        assert_eq!(refusal(&[lower(), upper]), expected, "{target}");
    }
}

#[test]
fn parent_that_is_a_symlink_is_followed_inside_the_root() {
    let low = Sample::new()
        .dir("run")
        .symlink("var/run", "/run")
        .symlink("var/up", "../../../../run/./up")
        .symlink("chain", "var/run")
        .finish();
    let upper = Sample::new()
        .file("var/run/a", b"a")
        .file("var/up/b", b"b")
        .file("chain/c", b"c")
        .hard_link("hard", "chain/c")
        .finish();
    let found = listing(&[low, upper]);
    for (path, what) in [
        ("/run/a", "a"),
        ("/run/up/b", "b"),
        ("/run/c", "c"),
        ("/hard", "c"),
        ("/var/run", "-> /run"),
    ] {
        assert_eq!(found[path], what, "{path}");
    }
}

#[test]
fn parent_that_is_a_loop_of_symlinks_is_refused() {
    let layer = Sample::new().symlink("a", "b").symlink("b", "/a").file("a/x", b"").finish();
    assert_eq!(refusal(&[layer]), EntryError::LinkLoop);
    let itself = Sample::new().symlink("a", "a/a").file("a/x", b"").finish();
    assert_eq!(refusal(&[itself]), EntryError::LinkLoop);
}

#[test]
fn entry_with_a_hostile_name_is_refused() {
    for (name, expected) in [
        ("../x", EntryError::OutsideRoot),
        ("a/../../x", EntryError::OutsideRoot),
        ("/../x", EntryError::OutsideRoot),
    ] {
        let layer = Sample::new().file(name, b"").finish();
        assert_eq!(refusal(&[layer]), expected, "{name}");
    }
    let long = Sample::new().file(&"x".repeat(256), b"").finish();
    assert_eq!(refusal(&[long]), EntryError::NameTooLong { length: 256 });
    let deep = Sample::new().file(&"x/".repeat(2048), b"").finish();
    assert_eq!(refusal(&[deep]), EntryError::PathTooLong { length: 4096 });
    let nul = Sample::new().pax(&[("path", b"a\0b")]).file("x", b"").finish();
    assert_eq!(refusal(&[nul]), EntryError::NulInName);
    let absolute = Sample::new().file("/etc/x", b"x").finish();
    assert_eq!(listing(&[absolute])["/etc/x"], "x");
}

#[test]
fn entry_with_a_bad_symlink_target_is_refused() {
    let empty = Sample::new().symlink("l", "").finish();
    assert_eq!(refusal(&[empty]), EntryError::EmptyTarget);
    let long = Sample::new().symlink("l", &"x/".repeat(2048)).finish();
    assert_eq!(refusal(&[long]), EntryError::PathTooLong { length: 4096 });
    let name_in_target = Sample::new().symlink("l", &"x".repeat(300)).file("l/a", b"").finish();
    assert_eq!(refusal(&[name_in_target]), EntryError::NameTooLong { length: 300 });
}

#[test]
fn entry_with_too_large_attributes_is_refused() {
    let layer = Sample::new().pax(&[("SCHILY.xattr.user.x", &[1; 70_000])]).file("f", b"").finish();
    assert!(matches!(refusal(&[layer]), EntryError::AttributesTooLarge { .. }));
}

#[test]
fn layer_of_countless_holes_is_refused() {
    let vast = |header: &mut tar::Header| {
        header.as_gnu_mut().unwrap().realsize = *b"77777777777\0";
    };
    let layer = (0..16_500).fold(Sample::new(), |layer, n: u32| {
        layer.header(vast).entry(b'S', n.to_string().as_bytes(), b"", b"")
    });
    let refusal = refusal(&[layer.finish()]);
    assert!(matches!(refusal, EntryError::TooMuchMetadata { .. }), "{refusal}");
}

#[test]
fn layer_cut_anywhere_inside_an_entry_is_refused() {
    let whole = Sample::new()
        .file(&"n".repeat(150), &[7; 700])
        .pax(&[("SCHILY.xattr.user.a", b"b")])
        .file("g", b"x")
        .finish();
    let end = whole.len() - 1024;
    // As in Go's reader, the padding of the last entry may be missing.
    let is_padding = |cut: &usize| {
        [663..1024, 2236..2560, 3097..3584, 4097..4608].iter().any(|r| r.contains(cut))
    };
    assert_eq!((end, whole[4096]), (4608, b'x'));
    for cut in (1..end).filter(|cut| cut % 512 != 0 && !is_padding(cut)) {
        assert!(matches!(failure(&[whole[..cut].to_vec()]), LayerError::Truncated { .. }), "{cut}");
    }
    for (cut, files) in [(2236, 1), (2300, 1), (4097, 2), (4100, 2), (4608, 2)] {
        assert_eq!(listing(&[whole[..cut].to_vec()]).len(), files, "{cut}");
    }
    // After the headers of an extension there must be an entry, at block borders too.
    assert!(matches!(
        failure(&[whole[..1024].to_vec()]),
        LayerError::Header { problem: HeaderProblem::Orphan, .. }
    ));
}

#[test]
fn layer_with_damage_anywhere_never_panics() {
    let whole = Sample::new()
        .file(&"n".repeat(150), &[7; 700])
        .pax(&[
            ("SCHILY.xattr.user.a", b"b"),
            ("GNU.sparse.map", b"0,1"),
            ("GNU.sparse.size", b"9"),
        ])
        .file("g", b"x")
        .entry(b'S', b"s", b"", b"")
        .symlink("l", "g")
        .file("l/.wh.x", b"")
        .finish();
    let checksum = |block: &mut [u8]| {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    };
    for at in 0..whole.len() {
        for value in [0, 0x80, 0xff, b'9', whole[at] ^ 1] {
            let mut damaged = whole.clone();
            damaged[at] = value;
            checksum(&mut damaged[at / 512 * 512..][..512]);
            // Whether it is refused depends on the byte; that it returns is what counts.
            let _ = read_layer(damaged.as_slice(), &mut Tree::new(), &mut Spool::new(io::empty()));
        }
    }
}

#[test]
fn layer_whose_contents_cannot_be_kept_says_whose() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let layer = Sample::new().file("big", &[1; 1000]).finish();
    let result = read_layer(layer.as_slice(), &mut Tree::new(), &mut Spool::new(full));
    match result.unwrap_err() {
        LayerError::Spool { path, source } => {
            assert_eq!((path.as_str(), source.kind()), ("big", io::ErrorKind::StorageFull));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn opaque_directory_said_twice_keeps_what_came_between() {
    let opaque = |sample: Sample| sample.file("d/.wh..wh..opq", b"");
    let upper = opaque(opaque(Sample::new().file("d/e/x", b"x")).file("d/c", b"c2")).finish();
    let expected = [("/d", "dir"), ("/d/c", "c2"), ("/d/e", "dir"), ("/d/e/x", "x"), ("/f", "f1")];
    expect(&[lower(), upper.clone()], &expected);
    let third = Sample::new().file("d/z", b"z").file("d/.wh..wh..opq", b"").finish();
    expect(&[lower(), upper, third], &[("/d", "dir"), ("/d/z", "z"), ("/f", "f1")]);
}
