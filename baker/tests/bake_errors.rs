//! Bakes that fail before they need a machine: errors name the reason, and the store is unchanged.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oci_support;

use std::path::Path;

use oci_support::{Image, LAYER, config, tar_of, write_files};
use serde_json::json;
use supermachine_baker::boot::BootError;
use supermachine_baker::oci::{self, FetchOptions, Platform};
use supermachine_baker::{BakeError, HostError, InputError, OciImageBuilder, Ready, Store, rootfs};
use supermachine_formats::Digest;
use tempfile::TempDir;

/// A store and a folder for images.
struct Bench {
    dir: TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_with_cache(dir.path().join("store"), dir.path().join("cache"));
        Self { store: store.unwrap(), dir }
    }

    /// Writes an image's layout and describes its bake.
    fn image(&self, image: &Image) -> OciImageBuilder {
        let layout = self.dir.path().join("layout");
        write_files(&layout, &image.layout(Some("latest")));
        OciImageBuilder::new(&format!("oci:{}", layout.display())).unwrap().name("x")
    }

    /// Bakes, expects a failure, and checks that nothing is left.
    fn refused(&self, builder: &OciImageBuilder) -> BakeError {
        let error = builder.bake(&self.store).unwrap_err();
        assert_eq!(self.store.names().unwrap(), Vec::<String>::new());
        for folder in [self.store.dir(), &self.dir.path().join("cache/downloads")] {
            let tmp = folder.join("tmp");
            let left = if tmp.is_dir() { std::fs::read_dir(tmp).unwrap().count() } else { 0 };
            assert_eq!(left, 0, "{}", folder.display());
        }
        error
    }
}

/// An image of one plain layer.
fn image(tar: Vec<u8>, settings: serde_json::Value) -> Image {
    let mut config =
        config(Platform::host().architecture.as_str(), &[Digest::of(&tar).to_string()]);
    config["config"] = settings;
    Image::with(vec![(LAYER.to_owned(), tar)], &config)
}

fn small_image() -> Image {
    image(tar_of(&[("file".into(), vec![b'x'; 1000])]), json!({"Cmd": ["/file"]}))
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

#[test]
fn missing_folder_or_file_is_named() {
    let bench = Bench::new();
    for form in ["oci:/no/such/folder", "oci-archive:/no/such.tar", "docker-archive:/no/such.tar"] {
        let error = bench.refused(&OciImageBuilder::new(form).unwrap().name("x"));
        assert!(matches!(error, BakeError::Fetch { .. }), "{form}: {error:?}");
        assert!(causes(&error).contains("/no/such"), "{}", causes(&error));
    }
}

#[test]
fn text_that_names_no_image_is_refused_at_once() {
    for text in ["", "UPPER/Case", "a b", "x@sha256:12", "oci:"] {
        let error = OciImageBuilder::new(text).map(drop).unwrap_err();
        assert!(matches!(error, BakeError::Fetch { .. }), "{text}: {error:?}");
    }
}

#[test]
fn registry_that_does_not_answer_is_named() {
    let bench = Bench::new();
    // A port that was just free, so nothing listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let reference = format!("127.0.0.1:{port}/image");
    let error = bench.refused(&OciImageBuilder::new(&reference).unwrap());
    let BakeError::Fetch { source: oci::Error::Unreachable { registry, .. } } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(registry, &format!("127.0.0.1:{port}"));
}

#[test]
fn image_that_is_not_cached_is_missing_offline() {
    let bench = Bench::new();
    let mut options = FetchOptions::default();
    options.offline = true;
    let builder = OciImageBuilder::new("127.0.0.1:9/image").unwrap().fetch_options(options);
    let error = bench.refused(&builder);
    assert!(
        matches!(error, BakeError::Fetch { source: oci::Error::NotCached { .. } }),
        "{error:?}"
    );
}

#[test]
fn image_without_a_command_needs_one() {
    let bench = Bench::new();
    let builder = bench.image(&image(tar_of(&[]), json!({})));
    let error = bench.refused(&builder);
    assert!(matches!(error, BakeError::Input(InputError::NoCommand { .. })), "{error:?}");
    // An empty entrypoint counts as absent.
    let none: [&str; 0] = [];
    let error = bench.refused(&builder.entrypoint(none));
    assert!(matches!(error, BakeError::Input(InputError::NoCommand { .. })), "{error:?}");
}

#[test]
fn invalid_machine_size_is_refused_before_a_fetch() {
    let bench = Bench::new();
    let missing = || OciImageBuilder::new("oci:/no/such/folder").unwrap().name("x");
    let size = |builder: OciImageBuilder| match bench.refused(&builder) {
        BakeError::Boot { source: BootError::Size { what, found, .. } } => (what, found),
        other => panic!("{other:?}"),
    };
    assert_eq!(size(missing().memory_mib(1)), ("memory in MiB", 1));
    assert_eq!(size(missing().memory_mib(0)), ("memory in MiB", 0));
    assert_eq!(size(missing().memory_mib(u64::MAX)), ("memory in MiB", u64::MAX));
    assert_eq!(size(missing().vcpus(0)), ("number of vCPUs", 0));
    assert_eq!(size(missing().vcpus(33)), ("number of vCPUs", 33));
}

#[test]
fn name_that_is_a_path_is_refused_before_anything_is_fetched() {
    let bench = Bench::new();
    for name in ["", "../x", "a/b", ".hidden"] {
        let error = bench.refused(&OciImageBuilder::new("oci:/no/such").unwrap().name(name));
        assert!(
            matches!(error, BakeError::Input(InputError::InvalidName { .. })),
            "{name:?}: {error:?}"
        );
    }
}

#[test]
fn image_for_another_platform_is_refused() {
    let bench = Bench::new();
    let other = if Platform::host().architecture == "amd64" { "s390x" } else { "amd64" };
    let builder = bench.image(&Image::new(other));
    let error = bench.refused(&builder);
    assert!(causes(&error).contains(other), "{}", causes(&error));
    // An explicit request does not enable guests to run it.
    let mut options = FetchOptions::default();
    options.platform = format!("linux/{other}").parse().unwrap();
    let error = bench.refused(&builder.fetch_options(options));
    let BakeError::Host(HostError::Platform { found, .. }) = &error else { panic!("{error:?}") };
    assert!(found.contains(other), "{found}");
}

/// A tar with one entry, whose name no library would write.
fn hostile_tar(name: &[u8], kind: tar::EntryType, target: &str) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(0o644);
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    if !target.is_empty() {
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    }
    header.set_cksum();
    [header.as_bytes().as_slice(), &[0; 1024]].concat()
}

#[test]
fn layer_that_climbs_out_of_the_root_is_refused() {
    let bench = Bench::new();
    for name in [b"../evil".as_slice(), b"a/../../evil", b"/../evil"] {
        let tar = hostile_tar(name, tar::EntryType::Regular, "");
        let error = bench.image(&image(tar, json!({"Cmd": ["/x"]}))).fetch(&bench.store);
        let error = error.unwrap_err();
        assert!(matches!(error, BakeError::Rootfs { .. }), "{error:?}");
        assert!(causes(&error).contains("evil"), "{}", causes(&error));
    }
    assert!(!bench.dir.path().join("evil").exists());
    assert!(!Path::new("/evil").exists());
}

#[test]
fn hard_link_to_nowhere_is_refused() {
    let bench = Bench::new();
    let tar = hostile_tar(b"link", tar::EntryType::Link, "../../etc/passwd");
    let builder = bench.image(&image(tar, json!({"Cmd": ["/x"]})));
    let error = builder.fetch(&bench.store).unwrap_err();
    assert!(matches!(error, BakeError::Rootfs { .. }), "{error:?}");
}

#[test]
fn layer_with_an_unexpected_digest_is_refused() {
    let bench = Bench::new();
    let good = small_image();
    let layer = good.layers[0];
    let mut bad = good.clone();
    bad.blobs.get_mut(&layer).unwrap()[0] ^= 1;
    let layout = bench.dir.path().join("layout");
    // Under the good digest's name.
    let mut files = good.layout(None);
    files.insert(format!("blobs/sha256/{}", layer.hex()), bad.blobs[&layer].clone());
    write_files(&layout, &files);
    let builder = OciImageBuilder::new(&format!("oci:{}", layout.display())).unwrap().name("x");
    let error = builder.fetch(&bench.store).unwrap_err();
    let text = causes(&error);
    assert!(matches!(error, BakeError::Fetch { .. }), "{error:?}");
    assert!(text.contains(&layer.hex()), "{text}");
}

#[test]
fn layer_whose_content_has_another_digest_is_refused() {
    let bench = Bench::new();
    let tar = tar_of(&[("file".into(), b"x".to_vec())]);
    let told = Digest::of(b"something else").to_string();
    let mut config = config(Platform::host().architecture.as_str(), &[told]);
    config["config"] = json!({"Cmd": ["/x"]});
    // The fetch compares both digests of an uncompressed layer.
    let packed = zstd::encode_all(&tar[..], 1).unwrap();
    let builder = bench.image(&Image::with(vec![(format!("{LAYER}+zstd"), packed)], &config));
    let error = builder.fetch(&bench.store).unwrap_err();
    assert!(
        matches!(&error, BakeError::Rootfs { source, .. } if matches!(**source, rootfs::Error::DiffId { .. })),
        "{error:?}"
    );
}

#[test]
fn fetching_needs_no_hypervisor_and_is_done_once() {
    let bench = Bench::new();
    let builder = bench.image(&small_image());
    builder.fetch(&bench.store).unwrap();
    let blobs = || std::fs::read_dir(bench.store.dir().join("blobs/sha256")).unwrap().count();
    // The root file system: its metadata, the layer's contents, and the index of both.
    assert_eq!(blobs(), 3);
    builder.fetch(&bench.store).unwrap();
    assert_eq!(blobs(), 3);
    assert_eq!(bench.store.names().unwrap(), Vec::<String>::new());
}

#[test]
fn readiness_text_of_no_known_form_is_refused() {
    let error = "port:80".parse::<Ready>().unwrap_err();
    assert!(error.to_string().contains("tcp:PORT"), "{error}");
}
