//! Layout folders and archives, valid and hostile.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod oci_support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_support::{Cache, INDEX, Image, config, options, source, tar, tar_of, write_files};
use serde_json::json;
use supermachine_baker::oci::{ArchiveProblem, Document, Error, OciImage, fetch};
use supermachine_formats::Digest;

type Files = BTreeMap<String, Vec<u8>>;

fn open(text: &str) -> Result<OciImage, Error> {
    open_in(&Cache::new(), text)
}

fn open_in(cache: &Cache, text: &str) -> Result<OciImage, Error> {
    let result = fetch(&source(text), &cache.blobs, &options());
    cache.blobs();
    result
}

fn problem(text: &str) -> ArchiveProblem {
    match open(text) {
        Err(Error::Archive { source, .. }) => source,
        other => panic!("{text}: {other:?}"),
    }
}

fn layout_dir(files: &Files) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), files);
    let text = format!("oci:{}", dir.path().display());
    (dir, text)
}

fn write_tar(dir: &Path, files: &Files) -> PathBuf {
    let files: Vec<_> = files.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let path = dir.join("image.tar");
    std::fs::write(&path, tar_of(&files)).unwrap();
    path
}

/// The files of a `docker save` archive of `layers`.
fn docker_files(tags: &[&str], layers: &[(&str, Vec<u8>)], diff_ids: &[String]) -> Files {
    let config = config("amd64", diff_ids).to_string().into_bytes();
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let names: Vec<_> = layers.iter().map(|(name, _)| name).collect();
    let index = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]).to_string();
    let layers = layers.iter().map(|(name, blob)| ((*name).to_owned(), blob.clone()));
    layers
        .chain([(config_name, config), ("manifest.json".to_owned(), index.into_bytes())])
        .collect()
}

#[test]
fn layout_folder_and_its_tar_give_the_same_image() {
    let image = Image::new("amd64");
    let files = image.layout(Some("v1"));
    let (dir, text) = layout_dir(&files);
    let tar = write_tar(dir.path(), &files);
    let plain = dir.path().display().to_string();
    for text in [
        text.clone(),
        format!("{text}:v1"),
        plain,
        tar.display().to_string(),
        format!("oci-archive:{}", tar.display()),
        format!("oci-archive:{}:v1", tar.display()),
    ] {
        let cache = Cache::new();
        let opened = open_in(&cache, &text).unwrap();
        assert_eq!(opened.manifest_digest, image.digest(), "{text}");
        for layer in &opened.layers {
            assert_eq!(std::fs::read(&layer.path).unwrap(), image.blobs[&layer.digest]);
        }
        assert_eq!(cache.blobs().len(), 5);
        open_in(&cache, &text).unwrap();
    }
}

#[test]
fn layout_with_several_images_wants_a_name() {
    let (one, two) = (Image::new("amd64"), Image::new("arm64"));
    let mut files = one.layout(Some("one"));
    let others = two.layout(Some("two"));
    let mut index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let other: serde_json::Value = serde_json::from_slice(&others["index.json"]).unwrap();
    index["manifests"].as_array_mut().unwrap().push(other["manifests"][0].clone());
    files.extend(others);
    files.insert("index.json".to_owned(), index.to_string().into_bytes());
    let (_dir, text) = layout_dir(&files);
    assert_eq!(open(&format!("{text}:one")).unwrap().manifest_digest, one.digest());
    match problem(&text) {
        ArchiveProblem::Ambiguous { offered } => assert_eq!(offered, ["one", "two"]),
        other => panic!("{other:?}"),
    }
    match problem(&format!("{text}:three")) {
        ArchiveProblem::NoSuchTag { wanted, offered } => {
            assert_eq!(wanted, "three");
            assert_eq!(offered, ["one", "two"]);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(open(&format!("{text}:two")), Err(Error::PlatformMissing { .. })));
}

#[test]
fn layout_that_is_damaged_is_refused() {
    let image = Image::new("amd64");
    let layer = image.largest_layer();
    let name = format!("blobs/sha256/{}", layer.hex());
    let good = image.layout(None);
    let damaged = |change: &dyn Fn(&mut Files)| {
        let mut files = good.clone();
        change(&mut files);
        let (_dir, text) = layout_dir(&files);
        open(&text).unwrap_err()
    };
    match damaged(&|files| drop(files.remove(&name))) {
        Error::BlobMissing { digest, .. } => assert_eq!(digest, layer),
        other => panic!("{other:?}"),
    }
    match damaged(&|files| files.get_mut(&name).unwrap()[77] ^= 1) {
        Error::DigestMismatch { digest, .. } => assert_eq!(digest, layer),
        other => panic!("{other:?}"),
    }
    match damaged(&|files| files.get_mut(&name).unwrap().truncate(77)) {
        Error::SizeMismatch { digest, found, .. } => assert_eq!((digest, found), (layer, 77)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        damaged(&|files| drop(files.remove("index.json"))),
        Error::Archive { source: ArchiveProblem::Missing { .. }, .. }
    ));
    assert!(matches!(
        damaged(&|files| drop(files.remove("oci-layout"))),
        Error::Archive { source: ArchiveProblem::Unrecognized, .. }
    ));
    let version = br#"{"imageLayoutVersion":"9.0.0"}"#.to_vec();
    match damaged(&|files| drop(files.insert("oci-layout".to_owned(), version.clone()))) {
        Error::Archive { source: ArchiveProblem::LayoutVersion { version }, .. } => {
            assert_eq!(version, "9.0.0");
        }
        other => panic!("{other:?}"),
    }
    let empty = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).to_string();
    assert!(matches!(
        damaged(&|files| drop(files.insert("index.json".to_owned(), empty.clone().into()))),
        Error::Archive { source: ArchiveProblem::Empty, .. }
    ));
    let huge = vec![b' '; 5 << 20];
    assert!(matches!(
        damaged(&|files| drop(files.insert("index.json".to_owned(), huge.clone()))),
        Error::TooLarge { .. }
    ));
}

#[test]
fn layout_with_links_for_blobs_is_refused() {
    let image = Image::new("amd64");
    let (dir, text) = layout_dir(&image.layout(None));
    let blob = dir.path().join("blobs/sha256").join(image.layers[0].hex());
    let elsewhere = dir.path().join("elsewhere");
    std::fs::rename(&blob, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &blob).unwrap();
    assert!(matches!(problem(&text), ArchiveProblem::NotAFile { .. }));
}

#[test]
fn archive_that_is_cut_off_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_tar(dir.path(), &Image::new("amd64").layout(None));
    let whole = std::fs::read(&path).unwrap();
    for length in [whole.len() / 2, 700, 512] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let found = problem(&path.display().to_string());
        assert!(matches!(found, ArchiveProblem::Unreadable { .. }), "{length}: {found:?}");
    }
    std::fs::write(&path, "").unwrap();
    let empty = problem(&path.display().to_string());
    assert!(matches!(empty, ArchiveProblem::Unreadable { .. }), "{empty:?}");
    assert!(matches!(open("oci-archive:/nonexistent.tar"), Err(Error::Io { .. })));
}

#[test]
fn docker_archive_gives_its_image() {
    let tars = [tar("a", 1), tar("b", 2)];
    let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let gzip = {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(&tars[1]).unwrap();
        encoder.finish().unwrap()
    };
    let layers = [("x/layer.tar", tars[0].clone()), ("y/layer.tar", gzip.clone())];
    let dir = tempfile::tempdir().unwrap();
    let tar = write_tar(dir.path(), &docker_files(&["busybox:latest"], &layers, &diff_ids));
    let cache = Cache::new();
    let text = format!("docker-archive:{}", tar.display());
    let first = open_in(&cache, &text).unwrap();
    assert_eq!(std::fs::read(&first.layers[0].path).unwrap(), tars[0]);
    assert_eq!(std::fs::read(&first.layers[1].path).unwrap(), gzip);
    assert_eq!(first.config.env, ["A=1"]);
    for name in ["", ":busybox", ":busybox:latest", ":docker.io/library/busybox:latest"] {
        let again = open_in(&cache, &format!("{text}{name}")).unwrap();
        assert_eq!(again.manifest_digest, first.manifest_digest);
    }
    assert!(open_in(&cache, &tar.display().to_string()).is_ok());
    assert!(matches!(problem(&format!("{text}:other")), ArchiveProblem::NoSuchTag { .. }));
}

#[test]
fn docker_archive_that_lies_is_refused() {
    let layer = tar("a", 1);
    let diff_id = Digest::of(&layer).to_string();
    let good = docker_files(&["a:b"], &[("l.tar", layer.clone())], std::slice::from_ref(&diff_id));
    let refused = |files: &Files| {
        let dir = tempfile::tempdir().unwrap();
        let path = write_tar(dir.path(), files);
        open(&format!("docker-archive:{}", path.display())).unwrap_err()
    };
    let mut other_layer = good.clone();
    other_layer.insert("l.tar".to_owned(), tar("b", 2));
    assert!(matches!(refused(&other_layer), Error::DigestMismatch { .. }));

    let mut no_layer = good.clone();
    no_layer.remove("l.tar");
    match refused(&no_layer) {
        Error::Archive { source: ArchiveProblem::Missing { name }, .. } => {
            assert_eq!(name, "l.tar")
        }
        other => panic!("{other:?}"),
    }

    let mut other_config = good.clone();
    let name = good.keys().find(|name| name.ends_with(".json") && name.len() > 60).unwrap();
    other_config.insert(name.clone(), config("amd64", &[]).to_string().into_bytes());
    assert!(matches!(refused(&other_config), Error::DigestMismatch { .. }));

    let few = docker_files(&[], &[("l.tar", layer.clone())], &[]);
    assert!(matches!(refused(&few), Error::LayerCount { layers: 1, diff_ids: 0 }));

    let mut escaping = good.clone();
    let index = json!([{"Config": name, "Layers": ["../../etc/passwd"]}]).to_string();
    escaping.insert("manifest.json".to_owned(), index.into_bytes());
    assert!(matches!(
        refused(&escaping),
        Error::Archive { source: ArchiveProblem::Escape { .. }, .. }
    ));

    let mut broken = good.clone();
    broken.insert("manifest.json".to_owned(), b"{}".to_vec());
    assert!(matches!(
        refused(&broken),
        Error::InvalidDocument { document: Document::ArchiveIndex, .. }
    ));

    let mut neither = good;
    neither.remove("manifest.json");
    assert!(matches!(
        refused(&neither),
        Error::Archive { source: ArchiveProblem::Unrecognized, .. }
    ));
}

#[test]
fn compressed_archives_are_read() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let layer = tar("file", 1);
    let diff_id = Digest::of(&layer).to_string();
    let files = docker_files(&["test:v1"], &[("layer.tar", layer)], &[diff_id]);
    let plain = std::fs::read(write_tar(dir.path(), &files)).unwrap();
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap()
    };
    let xz = {
        let mut encoder = xz2::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &zstd].concat();
    for (name, content) in
        [("a.tar.gz", &gzip), ("a.tar.xz", &xz), ("a.tar.zst", &zstd), ("b.tar.zst", &skipped)]
    {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        for text in [path.display().to_string(), format!("docker-archive:{}", path.display())] {
            assert_eq!(open(&text).unwrap().layers.len(), 1, "{text}");
        }
        std::fs::write(&path, &content[..content.len() / 2]).unwrap();
        let problem = problem(&format!("docker-archive:{}", path.display()));
        assert!(matches!(problem, ArchiveProblem::Unreadable { .. }), "{name}: {problem:?}");
    }
}

#[test]
fn archive_that_comes_through_a_pipe_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let layer = tar("file", 1);
    let diff_id = Digest::of(&layer).to_string();
    let files = docker_files(&["test:v1"], &[("layer.tar", layer)], &[diff_id]);
    let content = std::fs::read(write_tar(dir.path(), &files)).unwrap();
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::write(pipe, content).unwrap()
    });
    assert_eq!(open(&format!("docker-archive:{}", pipe.display())).unwrap().layers.len(), 1);
    writer.join().unwrap();
}

#[test]
fn path_to_nothing_is_no_such_file() {
    for text in ["./nosuch", "/nonexistent/image", "../nosuch/image:tag"] {
        let error = text.parse::<supermachine_baker::oci::ImageSource>().unwrap_err();
        assert_eq!(error.to_string(), format!("no such file: {text}"));
    }
    let error = open("docker-archive:/nonexistent/image.tar").unwrap_err();
    assert!(matches!(&error, Error::Io { op: "open", .. }), "{error:?}");
}
