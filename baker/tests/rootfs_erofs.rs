//! Images checked with other programs: GNU tar creates layers, `fsck.erofs` checks and extracts the
//! images, and a second reader checks what extraction loses.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "rootfs_erofs/regions.rs"]
mod regions;
mod rootfs_image;
#[path = "../src/rootfs/samples.rs"]
mod samples;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use supermachine_baker::rootfs::{
    Compression, Directories, Error, LayerSource, RootfsImage, build,
};
use supermachine_formats::{Digest, Hasher};
use tempfile::TempDir;

use rootfs_image::{CHUNKS, Image, PLAIN};
use samples::Sample;

const PMEM_ALIGNMENT: u64 = 2 << 20;

fn uncompressed(path: PathBuf, diff_id: Digest) -> LayerSource {
    let (compression, directories) = (Compression::None, Directories::default());
    LayerSource { path, compression, diff_id, name: diff_id, directories }
}

fn layer(dir: &Path, name: &str, bytes: &[u8]) -> LayerSource {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    let diff_id = Digest::of(bytes);
    uncompressed(path, diff_id)
}

fn build_in(dir: &Path, layers: &[LayerSource]) -> (RootfsImage, PathBuf) {
    let out = dir.join("image.erofs");
    let image = build(layers, dir, &out).unwrap();
    run("fsck.erofs", &[out.to_str().unwrap()]);
    (image, out)
}

fn build_bytes(dir: &Path, layers: &[Vec<u8>]) -> (RootfsImage, Image) {
    let layers: Vec<LayerSource> =
        (0..).zip(layers).map(|(n, bytes)| layer(dir, &format!("{n}.tar"), bytes)).collect();
    let (built, path) = build_in(dir, &layers);
    (built, Image::open(&path))
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed here: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn extract(image: &Path, to: &Path) {
    let option = format!("--extract={}", to.display());
    run("fsck.erofs", &[&option, "--preserve", image.to_str().unwrap()]);
}

fn gnu_tar(source: &Path, archive: &Path, options: &[&str]) -> LayerSource {
    let fixed = ["-C", source.to_str().unwrap(), "-cf", archive.to_str().unwrap()];
    run("tar", &[&fixed, options, &["."]].concat());
    let (path, diff_id) = (archive.to_path_buf(), digest_of(archive));
    uncompressed(path, diff_id)
}

fn digest_of(path: &Path) -> Digest {
    let (mut file, mut hasher) = (File::open(path).unwrap(), Hasher::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hasher.finish(),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// What extraction preserves of a tree: type, mode, owner, whole seconds, content.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if meta.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if meta.is_file() {
            format!("{} {}", meta.len(), digest_of(&path))
        } else {
            format!("device {}", meta.rdev())
        };
        // Extraction sets the owner last, and the kernel then clears these bits.
        let lost = if meta.is_dir() { 0 } else { 0o6000 };
        let (mode, owner) = (meta.mode() & !lost, (meta.uid(), meta.gid()));
        let line = format!("{mode:o} {owner:?} {} {content}", meta.mtime());
        found.insert(path.strip_prefix(root).unwrap().to_path_buf(), line);
    }
    found
}

fn assert_same(found: &Path, expected: &Path) {
    let (found, expected) = (snapshot(found), snapshot(expected));
    let paths: BTreeSet<&PathBuf> = found.keys().chain(expected.keys()).collect();
    for path in paths {
        assert_eq!(found.get(path), expected.get(path), "{}", path.display());
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A tree with everything that GNU tar and extraction both preserve.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("bin")).unwrap();
    for size in [0, 1, 4031, 4032, 4033, 4095, 4096, 4097, 70_000, 3_000_000] {
        let bytes: Vec<u8> = (0..size).map(|n: u32| (n % 251 + 1) as u8).collect();
        fs::write(root.join(format!("bin/{size}")), bytes).unwrap();
    }
    set_mode(&root.join("bin/1"), 0o4755);
    set_mode(&root.join("bin/4096"), 0o2711);
    fs::hard_link(root.join("bin/70000"), root.join("hard")).unwrap();
    fs::create_dir(root.join("tmp")).unwrap();
    set_mode(&root.join("tmp"), 0o1777);
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for n in 0..3000 {
        fs::write(many.join(format!("!{n}-{}", "x".repeat(n % 60))), b"").unwrap();
    }
    fs::write(many.join("x".repeat(255)), b"long").unwrap();
    let mut deep = root.to_path_buf();
    for n in 0..12 {
        deep.push(format!("{n}{}", "d".repeat(100)));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("end"), b"end").unwrap();
    symlink("bin/1", root.join("short")).unwrap();
    symlink("/".repeat(4000), root.join("tmp/long")).unwrap();
    symlink("/".repeat(4095), root.join("tmp/longest")).unwrap();
    run("mkfifo", &["-m", "640", root.join("fifo").to_str().unwrap()]);
    run("touch", &["-h", "-d", "1969-12-31 23:00:00 UTC", root.join("short").to_str().unwrap()]);
    run("touch", &["-d", "2033-05-18 03:33:20.123456789 UTC", many.to_str().unwrap()]);
}

#[test]
fn image_of_gnu_tar_layer_extracts_to_the_same_tree() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("source");
    make_tree(&source);
    for format in ["gnu", "posix"] {
        let archive = dir.path().join(format!("{format}.tar"));
        let layer = gnu_tar(&source, &archive, &["--format", format]);
        let (built, path) = build_in(dir.path(), &[layer]);
        let extracted = dir.path().join(format);
        extract(&path, &extracted);
        assert_same(&extracted, &source);

        let image = Image::open(&path);
        assert_eq!(image.find("hard").number, image.find("bin/70000").number);
        assert_eq!(image.find("hard").links, 2);
        assert_eq!(image.find("bin/1").mode, 0o104_755);
        assert_eq!(image.find("bin/4096").mode, 0o102_711);
        assert_eq!(image.inodes, built.inodes);
        let directories = fs::read_dir(&source)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir());
        assert_eq!(image.find("/").links as usize, 2 + directories.count());
        if format == "posix" {
            assert_eq!(image.find("many").mtime, (2_000_000_000, 123_456_789));
        }
    }
}

#[test]
fn image_of_stacked_layers_extracts_as_the_layers_applied_by_hand() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    make_tree(&at("lower"));
    let lower = gnu_tar(&at("lower"), &at("lower.tar"), &["--format=posix"]);

    fs::create_dir_all(at("upper/many")).unwrap();
    fs::create_dir_all(at("upper/bin/4096")).unwrap();
    fs::write(at("upper/many/new"), b"new").unwrap();
    fs::write(at("upper/bin/4096/inside"), b"now a directory").unwrap();
    fs::write(at("upper/tmp"), b"now a file").unwrap();
    let plain = gnu_tar(&at("upper"), &at("plain.tar"), &["--format=posix"]);
    fs::write(at("upper/many/.wh..wh..opq"), b"").unwrap();
    fs::write(at("upper/.wh.hard"), b"").unwrap();
    fs::write(at("upper/bin/.wh.1"), b"").unwrap();
    // Whiteouts changed the times of their directories; the expected tree must have the same.
    for name in ["", "many", "bin"] {
        run("touch", &["-d", "@1000000000", at(&format!("upper/{name}")).to_str().unwrap()]);
    }
    let upper = gnu_tar(&at("upper"), &at("upper.tar"), &["--format=posix"]);

    let by_hand = at("by-hand");
    fs::create_dir(&by_hand).unwrap();
    let untar = |archive: &Path| {
        run("tar", &["-C", by_hand.to_str().unwrap(), "-xpf", archive.to_str().unwrap()]);
    };
    untar(&lower.path);
    for gone in ["many", "tmp"] {
        fs::remove_dir_all(by_hand.join(gone)).unwrap();
    }
    for gone in ["hard", "bin/1", "bin/4096"] {
        fs::remove_file(by_hand.join(gone)).unwrap();
    }
    untar(&plain.path);
    for name in ["", "many", "bin"] {
        run("touch", &["-d", "@1000000000", by_hand.join(name).to_str().unwrap()]);
    }

    let (_, path) = build_in(dir.path(), &[lower, upper]);
    extract(&path, &at("extracted"));
    assert_same(&at("extracted"), &by_hand);
}

#[test]
fn image_keeps_metadata_that_extraction_loses() {
    let dir = TempDir::new().unwrap();
    let capability = b"\x01\0\0\x02\n\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let large = vec![7; 20_000];
    let bytes = Sample::new()
        .mode(0o4755)
        .owner(3_000_000_000, 100_000)
        .pax(&[
            ("mtime", b"-1.25"),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.large", &large),
            ("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0"),
        ])
        .file("bin/ping", &[1; 5000])
        .hard_link("bin/pong", "bin/ping")
        .pax(&[("SCHILY.xattr.trusted.t", b"")])
        .dir("etc")
        .pax(&[("SCHILY.xattr.user.link", &[b'v'; 4000])])
        .entry(b'2', b"link", &[b't'; 300], b"")
        .device(5, 1)
        .entry(b'3', b"console", b"", b"")
        .device(259, 70_000)
        .entry(b'4', b"disk", b"", b"")
        .finish();
    let (_, image) = build_bytes(dir.path(), &[bytes]);

    let ping = image.find("bin/ping");
    assert_eq!((ping.mode, ping.uid, ping.gid), (0o104_755, 3_000_000_000, 100_000));
    assert_eq!(ping.mtime, (-2, 750_000_000));
    assert_eq!((ping.links, image.find("bin/pong").number), (2, ping.number));
    assert_eq!(image.read(&ping, 0, u64::MAX), [1; 5000]);
    let attributes = image.attributes(&ping);
    assert_eq!(attributes["security.capability"], capability);
    assert_eq!(attributes["user.large"], large);
    assert_eq!(attributes["system.posix_acl_access"], b"\x02\0\0\0");
    assert_eq!(image.attributes(&image.find("etc"))["trusted.t"], b"");
    let link = image.find("link");
    assert_eq!(image.attributes(&link)["user.link"].len(), 4000);
    assert_eq!(image.read(&link, 0, u64::MAX), [b't'; 300]);
    assert_eq!((image.find("console").mode, image.find("console").locator), (0o020_644, 0x501));
    let disk = image.find("disk").locator;
    assert_eq!(disk, (70_000 & 0xff) | 259 << 8 | (70_000 & !0xff) << 12);
}

#[test]
fn image_places_larger_files_on_blocks_of_their_own() {
    let dir = TempDir::new().unwrap();
    let mut sample = Sample::new();
    for n in 3..50 {
        sample = sample.file(&format!("f{n}"), &vec![n as u8 + 1; n * 397]);
    }
    let (_, image) = build_bytes(dir.path(), &[sample.finish()]);
    let mut next = 0;
    let mut files: Vec<_> = (3..50).map(|n| image.find(&format!("f{n}"))).collect();
    files.sort_by_key(|inode| inode.locator);
    for inode in files {
        assert_eq!(inode.layout, PLAIN);
        assert!(inode.locator >= next, "shares a block");
        next = inode.locator + u32::try_from(inode.size.div_ceil(4096)).unwrap();
    }
    assert_eq!(image.incompatible, 0, "needs nothing that old kernels lack");
}

#[test]
fn image_of_equal_layers_is_equal_whatever_their_compression() {
    let dir = TempDir::new().unwrap();
    let bytes = Sample::new().dir("d").file("d/f", &[9; 10_000]).symlink("l", "d").finish();
    let mut two_members = gzip(&bytes[..1000]);
    two_members.extend(gzip(&bytes[1000..]));
    let mut two_frames = zstd::encode_all(&bytes[..1000], 3).unwrap();
    two_frames.extend(zstd::encode_all(&bytes[1000..], 3).unwrap());
    let forms = [
        (Compression::None, bytes.clone()),
        (Compression::Gzip, two_members),
        (Compression::Zstd, two_frames),
    ];
    let mut images = Vec::new();
    for (compression, blob) in forms {
        let source = layer(dir.path(), "layer", &blob);
        let source = LayerSource { compression, diff_id: Digest::of(&bytes), ..source };
        let (built, path) = build_in(dir.path(), &[source]);
        assert_eq!(built.digest, digest_of(&path));
        assert_eq!(built.size, fs::metadata(&path).unwrap().len());
        assert_eq!(built.size % PMEM_ALIGNMENT, 0);
        images.push((built, fs::read(&path).unwrap()));
    }
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn image_without_layers_is_an_empty_root() {
    let dir = TempDir::new().unwrap();
    let (built, image) = build_bytes(dir.path(), &[]);
    assert_eq!((built.inodes, built.size), (1, PMEM_ALIGNMENT));
    assert_eq!(image.entries(&image.find("/")).len(), 2);
    assert_eq!(u64::from(image.blocks) * 4096, PMEM_ALIGNMENT);
}

#[test]
fn image_of_a_huge_directory_lists_every_name() {
    const FILES: usize = 100_000;
    let dir = TempDir::new().unwrap();
    let mut sample = Sample::new();
    for n in 0..FILES {
        sample = sample.file(&format!("big/{n:x}"), b"");
    }
    let (built, image) = build_bytes(dir.path(), &[sample.finish()]);
    assert_eq!(built.inodes, FILES as u64 + 2);
    let entries = image.entries(&image.find("big"));
    assert_eq!(entries.len(), FILES + 2);
    assert!((0..FILES).all(|n| entries.contains_key(format!("{n:x}").as_bytes())));
}

#[test]
fn image_of_many_small_files_is_little_larger_than_their_contents() {
    const FILES: usize = 200_000;
    /// An inode and its padding, and an entry of a directory.
    const OVERHEAD: usize = 64 + 16 + 32;
    let dir = TempDir::new().unwrap();
    let mut sample = Sample::new();
    let mut contents = 0;
    for n in 0..FILES {
        let content = format!("{n:0width$}", width = 20 + n % 41);
        contents += content.len();
        sample = sample.file(&format!("m{}/{n}", n / 400), content.as_bytes());
    }
    let (built, image) = build_bytes(dir.path(), &[sample.finish()]);
    assert!(built.size <= (contents + FILES * OVERHEAD) as u64 + PMEM_ALIGNMENT, "{built:?}");
    assert_eq!(built.regions, []);
    let found = image.find("m250/100007");
    assert_eq!(
        image.read(&found, 0, found.size),
        format!("{:0width$}", 100_007, width = 20 + 100_007 % 41).into_bytes()
    );
}

#[test]
fn image_of_a_huge_sparse_file_is_small() {
    const SIZE: u64 = 5 << 30;
    let parts = [(0, "start"), ((4 << 30) + 12_345, "beyond"), (SIZE - 5, "close")];
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let file = File::create(source.join("sparse")).unwrap();
    file.set_len(SIZE).unwrap();
    for (offset, text) in parts {
        file.write_all_at(text.as_bytes(), offset).unwrap();
    }
    let formats: [&[&str]; 4] = [
        &["-S", "--format=gnu"],
        &["-S", "--format=posix", "--sparse-version=0.0"],
        &["-S", "--format=posix", "--sparse-version=0.1"],
        &["-S", "--format=posix", "--sparse-version=1.0"],
    ];
    for options in formats {
        let archive = gnu_tar(&source, &dir.path().join("sparse.tar"), options);
        let (built, path) = build_in(dir.path(), &[archive]);
        assert!(built.size <= 8 << 20, "{options:?}: {}", built.size);
        let image = Image::open(&path);
        let inode = image.find("sparse");
        assert_eq!((inode.size, inode.layout), (SIZE, CHUNKS), "{options:?}");
        for (offset, text) in parts {
            assert_eq!(image.read(&inode, offset, text.len() as u64), text.as_bytes());
        }
        assert_eq!(image.read(&inode, 3 << 30, 5000), [0; 5000]);
    }
}

#[test]
fn image_of_a_file_of_zeros_is_small() {
    const SIZE: u64 = (64 << 20) + 7;
    let dir = TempDir::new().unwrap();
    let head = Sample::new().header(|header| header.set_size(SIZE)).file("zeros", b"").finish();
    let path = dir.path().join("zeros.tar");
    let mut file = File::create(&path).unwrap();
    file.write_all(&head[..512]).unwrap();
    file.write_all_at(b"end", 512 + SIZE - 3).unwrap();
    file.set_len((512 + SIZE).next_multiple_of(512) + 1024).unwrap();
    let diff_id = digest_of(&path);
    let source = uncompressed(path, diff_id);
    let (built, path) = build_in(dir.path(), &[source]);
    assert!(built.size <= 4 << 20, "{}", built.size);
    let image = Image::open(&path);
    let inode = image.find("zeros");
    assert_eq!(inode.size, SIZE);
    assert_eq!(image.read(&inode, SIZE - 5, 5), b"\0\0end");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A layer that does not compress well, so that cuts hit every part of it.
fn noisy() -> Vec<u8> {
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(20_000)
    .collect();
    Sample::new().file("a", &noise).dir("d").file("d/b", &noise[..3000]).finish()
}

fn refuse(dir: &Path, source: &LayerSource) -> Error {
    let out = dir.join("refused.erofs");
    let error = build(std::slice::from_ref(source), dir, &out).unwrap_err();
    assert!(!out.exists(), "a half-made image was left");
    error
}

#[test]
fn layer_cut_at_any_point_is_refused() {
    let dir = TempDir::new().unwrap();
    let bytes = noisy();
    let forms = [
        (Compression::None, bytes.clone()),
        (Compression::Gzip, gzip(&bytes)),
        (Compression::Zstd, zstd::encode_all(bytes.as_slice(), 1).unwrap()),
    ];
    for (compression, blob) in forms {
        let near_the_end = blob.len().saturating_sub(40)..blob.len();
        for cut in (0..blob.len()).step_by(211).chain(near_the_end) {
            let source = layer(dir.path(), "cut", &blob[..cut]);
            let source = LayerSource { compression, diff_id: Digest::of(&bytes), ..source };
            let error = refuse(dir.path(), &source);
            assert!(
                matches!(error, Error::Layer { .. } | Error::DiffId { .. }),
                "{compression:?} cut at {cut}: {error:?}"
            );
        }
    }
}

#[test]
fn layer_with_bytes_after_its_end_is_refused() {
    let dir = TempDir::new().unwrap();
    let bytes = noisy();
    let forms = [
        (Compression::None, bytes.clone()),
        (Compression::Gzip, gzip(&bytes)),
        (Compression::Zstd, zstd::encode_all(bytes.as_slice(), 1).unwrap()),
    ];
    for (compression, mut blob) in forms {
        blob.extend(b"more");
        let source = layer(dir.path(), "more", &blob);
        let source = LayerSource { compression, diff_id: Digest::of(&bytes), ..source };
        refuse(dir.path(), &source);
    }
}

#[test]
fn layer_with_another_diff_id_is_refused_with_both_digests() {
    let dir = TempDir::new().unwrap();
    let bytes = noisy();
    let expected = Digest::of(b"something else");
    let source = LayerSource { diff_id: expected, ..layer(dir.path(), "layer", &bytes) };
    match refuse(dir.path(), &source) {
        Error::DiffId { layer, expected: named, found } => {
            assert_eq!((layer, named, found), (source.name, expected, Digest::of(&bytes)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn layer_with_hostile_entry_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let bytes = Sample::new().file("ok", b"").file("../../etc/passwd", b"x").finish();
    let source = layer(dir.path(), "hostile", &bytes);
    let error = refuse(dir.path(), &source);
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert_eq!(
        text,
        format!(
            "layer {} cannot be applied: entry \"../../etc/passwd\" is refused: its path leads \
             out of the root",
            source.name
        )
    );
}

#[test]
fn files_of_the_host_that_are_missing_are_named() {
    let dir = TempDir::new().unwrap();
    let mut source = layer(dir.path(), "layer", &noisy());
    let nowhere = dir.path().join("none/image");
    let error = build(std::slice::from_ref(&source), dir.path(), &nowhere).unwrap_err();
    assert!(matches!(error, Error::File { op: "create", path, .. } if path == nowhere));
    source.path = dir.path().join("missing");
    let error = refuse(dir.path(), &source);
    assert!(matches!(error, Error::File { op: "open", path, .. } if path == source.path));
}
