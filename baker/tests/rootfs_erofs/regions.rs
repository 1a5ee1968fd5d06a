//! Bytes that images with a common layer share.

use std::ops::Range;

use supermachine_baker::rootfs::Region;

use super::*;

const UNIT: u64 = 64 << 10;

/// A layer with contents of all kinds, and its content by path.
fn shared() -> (Vec<u8>, BTreeMap<&'static str, Vec<u8>>) {
    let mut sparse = vec![0; 3 << 20];
    for (at, byte) in [(0, 1), ((3 << 20) - 1, 2)] {
        sparse[at] = byte;
    }
    let files = BTreeMap::from([
        ("d/hidden", b"nobody finds this".repeat(500)),
        ("d/one", vec![7]),
        ("d/unaligned", (0..2 * UNIT + 123).map(|n| (n % 251 + 1) as u8).collect()),
        ("empty", Vec::new()),
        ("gone/deep/file", vec![5; 4096]),
        ("large-one", vec![7; 961]),
        ("replaced", vec![6; 70_000]),
        ("sparse", sparse),
    ]);
    let layer = files.iter().fold(Sample::new(), |layer, (path, bytes)| layer.file(path, bytes));
    (layer.hard_link("linked", "d/one").finish(), files)
}

/// An image in a folder of its own.
struct Built {
    dir: TempDir,
    made: RootfsImage,
    image: Image,
}

impl Built {
    fn new(layers: &[&[u8]]) -> Self {
        let dir = TempDir::new().unwrap();
        let layers: Vec<Vec<u8>> = layers.iter().map(|layer| layer.to_vec()).collect();
        let (made, image) = build_bytes(dir.path(), &layers);
        let built = Self { dir, made, image };
        built.assert_regions_follow_each_other();
        built
    }

    fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let file = File::open(self.dir.path().join("image.erofs")).unwrap();
        file.read_exact_at(&mut bytes, range.start).unwrap();
        bytes
    }

    fn region(&self, layer: &[u8]) -> &Region {
        let diff_id = Digest::of(layer);
        let mut regions = self.made.regions.iter().filter(|region| region.diff_id == diff_id);
        let region = regions.next().unwrap();
        assert_eq!(regions.next(), None);
        region
    }

    fn region_bytes(&self, layer: &[u8]) -> Vec<u8> {
        let region = self.region(layer);
        self.bytes(region.offset..region.offset + region.length)
    }

    fn assert_regions_follow_each_other(&self) {
        let mut next = self.made.metadata_size;
        assert_eq!(next % UNIT, 0);
        for region in &self.made.regions {
            assert_eq!(region.offset, next);
            assert!(region.length > 0 && region.length % UNIT == 0);
            next += region.length;
        }
        assert_eq!(self.made.size, next.next_multiple_of(PMEM_ALIGNMENT));
    }

    /// Extracts the image and searches all contents.
    fn some_file_contains(&self, text: &str) -> bool {
        let to = self.dir.path().join("extracted");
        extract(&self.dir.path().join("image.erofs"), &to);
        let mut pending = vec![to];
        while let Some(path) = pending.pop() {
            if path.is_dir() {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if contains(&fs::read(&path).unwrap(), text) {
                return true;
            }
        }
        false
    }

    fn read(&self, path: &str) -> Vec<u8> {
        self.image.read(&self.image.find(path), 0, u64::MAX)
    }

    fn names(&self, path: &str) -> Vec<String> {
        let entries = self.image.entries(&self.image.find(path));
        let names = entries.into_keys().map(|name| String::from_utf8(name).unwrap());
        names.filter(|name| !name.starts_with('.')).collect()
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(bytes).contains(text)
}

#[test]
fn region_of_a_shared_layer_is_the_same_whatever_is_above_and_below() {
    let (layer, files) = shared();
    let replacing = Sample::new()
        .file("replaced", b"new")
        .file("d/.wh.hidden", b"")
        .file("more", &[9; 100_000])
        .finish();
    let mut deleting = Sample::new().file(".wh.gone", b"").file(".wh.sparse", b"").dir("many");
    for n in 0..2000 {
        deleting = deleting.file(&format!("many/{n:0100}"), b"");
    }
    let below = Sample::new().file("below", &[8; 4097]).file("d/one", b"hidden by a sibling");

    let alone = Built::new(&[&layer]);
    let replaced = Built::new(&[&layer, &replacing]);
    let deleted = Built::new(&[&layer, &deleting.finish()]);
    let above = Built::new(&[&below.finish(), &layer]);

    let expected = alone.region_bytes(&layer);
    for image in [&replaced, &deleted, &above] {
        assert!(image.region_bytes(&layer) == expected);
        assert!(image.region(&layer).offset > 0);
    }
    assert_ne!(deleted.region(&layer).offset, alone.region(&layer).offset);
    assert_ne!(above.region(&layer).offset, alone.region(&layer).offset);
    let whole = files.iter().filter(|(path, bytes)| **path != "sparse" && bytes.len() > 960);
    let blocks: u64 = whole.map(|(_, bytes)| (bytes.len() as u64).div_ceil(4096)).sum();
    // The sparse file has a chunk for each of its two bytes.
    assert_eq!(expected.len() as u64, (blocks * 4096 + 2 * UNIT).next_multiple_of(UNIT));

    for (path, bytes) in &files {
        assert!(alone.read(path) == *bytes, "{path}");
        assert!(above.read(path) == *bytes, "{path}");
        let changed = ["replaced", "d/hidden"].contains(path);
        assert!(changed || replaced.read(path) == *bytes, "{path}");
        let changed = ["sparse", "gone/deep/file"].contains(path);
        assert!(changed || deleted.read(path) == *bytes, "{path}");
    }
    assert_eq!(replaced.read("replaced"), b"new");
    assert_eq!(replaced.names("d"), ["one", "unaligned"]);
    assert_eq!(deleted.names("/"), ["d", "empty", "large-one", "linked", "many", "replaced"]);
    assert_eq!(above.read("below"), [8; 4097]);
}

#[test]
fn content_that_an_upper_layer_hides_is_in_no_file() {
    let (layer, _) = shared();
    let upper = Sample::new().file("d/.wh.hidden", b"").finish();
    let (open, hidden) = (Built::new(&[&layer]), Built::new(&[&layer, &upper]));
    let text = "nobody finds this";
    assert!(open.some_file_contains(text));
    assert!(!hidden.some_file_contains(text));
    // As in the layer itself, the bytes are still there.
    assert!(contains(&hidden.region_bytes(&layer), text));
    assert_eq!(hidden.made.inodes, open.made.inodes - 1);
}

#[test]
fn region_of_a_layer_that_names_a_file_twice_has_both_contents() {
    let (first, second) = (b"first".repeat(300), b"second".repeat(300));
    let layer = Sample::new().file("f", &first).file("f", &second).finish();
    let built = Built::new(&[&layer]);
    let region = built.region_bytes(&layer);
    assert!(region[..1500] == first && region[4096..5896] == second);
    assert!(built.read("f") == second);
}

#[test]
fn hard_link_to_a_hidden_file_of_a_lower_layer_reads_the_lower_region() {
    let (lower, files) = shared();
    let upper = Sample::new()
        .hard_link("kept", "d/hidden")
        .hard_link("kept-holes", "sparse")
        .file("d/.wh.hidden", b"")
        .file(".wh.sparse", b"")
        .finish();
    let built = Built::new(&[&lower, &upper]);
    assert_eq!(built.made.regions.len(), 1);
    assert!(built.read("kept") == files["d/hidden"]);
    assert!(built.read("kept-holes") == files["sparse"]);
    assert_eq!(built.image.find("kept").links, 1);
    assert_eq!(built.image.find("linked").number, built.image.find("d/one").number);
    let region = built.region(&lower);
    let position = u64::from(built.image.find("kept").locator) * 4096;
    assert!((region.offset..region.offset + region.length).contains(&position));
}

#[test]
fn layer_without_contents_has_no_region() {
    let empty = Sample::new().finish();
    let directories =
        Sample::new().dir("a").dir("a/b").symlink("l", "a").file("e", b"").file(".wh.x", b"gone");
    let directories = directories.finish();
    let file = Sample::new().file("f", &[6; 961]).finish();
    let small = Sample::new().file("s", &[6; 960]).finish();
    let built = Built::new(&[&empty, &directories, &small, &file, &directories]);
    let region = Region { diff_id: Digest::of(&file), offset: UNIT, length: UNIT };
    assert_eq!(built.made.regions, [region]);
    assert_eq!(built.names("/"), ["a", "e", "f", "l", "s"]);
}

#[test]
fn small_files_are_packed_behind_their_inodes() {
    const FILES: u64 = 3000;
    let content = |n: u64| format!("content of {n}").repeat(n as usize % 60);
    let layer = (0..FILES)
        .fold(Sample::new(), |layer, n| layer.file(&format!("{n:x}"), content(n).as_bytes()));
    // Attributes of this size leave no room in the inode's block.
    let wide = Sample::new().pax(&[("SCHILY.xattr.user.wide", &[b'w'; 3500])]);
    let built = Built::new(&[&layer.finish(), &wide.file("wide", &[5; 900]).finish()]);
    assert_eq!(built.made.regions, []);
    let bytes: u64 = (0..FILES).map(|n| 64 + 12 + 5 + content(n).len() as u64).sum();
    assert!(built.made.metadata_size < bytes * 3 / 2, "{} of {bytes}", built.made.metadata_size);
    for n in 0..FILES {
        assert!(built.read(&format!("{n:x}")) == content(n).as_bytes(), "{n}");
    }
    assert_eq!(built.read("wide"), [5; 900]);
    let to = built.dir.path().join("extracted");
    extract(&built.dir.path().join("image.erofs"), &to);
    assert_eq!(fs::read(to.join("wide")).unwrap(), [5; 900]);
    assert_eq!(fs::read(to.join("3b")).unwrap(), content(0x3b).as_bytes());
}

#[test]
fn file_whose_content_is_there_already_takes_no_space() {
    let (lower, files) = shared();
    let mut copies = Sample::new();
    for path in ["d/unaligned", "replaced", "sparse", "gone/deep/file"] {
        copies = copies.owner(7, 7).file(&format!("copy/{path}"), &files[path]);
    }
    // Zeros behind a dropped copy do not show its bytes.
    let mut zeros = vec![0; 300_000];
    zeros[299_999] = 1;
    let same_but_longer = [&files["replaced"][..], &[0]].concat();
    let upper = copies.file("zeros", &zeros).file("longer", &same_but_longer).finish();
    let built = Built::new(&[&lower, &upper]);
    let blocks = zeros.len().next_multiple_of(4096) + same_but_longer.len();
    assert_eq!(built.region(&upper).length, (blocks as u64).next_multiple_of(UNIT));
    for path in ["d/unaligned", "replaced", "sparse", "gone/deep/file"] {
        let (one, copy) = (built.image.find(path), built.image.find(&format!("copy/{path}")));
        assert!(built.read(&format!("copy/{path}")) == files[path], "{path}");
        assert_ne!(one.number, copy.number);
        assert_eq!((one.links, copy.links, copy.uid), (1, 1, 7), "{path}");
    }
    assert!(built.read("zeros") == zeros);
    assert!(built.read("longer") == same_but_longer);
}

#[test]
fn image_built_twice_is_the_same_bytes() {
    let (lower, _) = shared();
    let upper = Sample::new().file("gone/.wh..wh..opq", b"").file("d/.wh.one", b"").finish();
    let layers: [&[u8]; 3] = [&lower, &upper, &lower];
    let (first, second) = (Built::new(&layers), Built::new(&layers));
    assert_eq!(first.made, second.made);
    assert!(first.bytes(0..first.made.size) == second.bytes(0..second.made.size));
    // A repeated layer adds nothing.
    let diff_ids: Vec<_> = first.made.regions.iter().map(|region| region.diff_id).collect();
    assert_eq!(diff_ids, [Digest::of(&lower)]);
}
