//! Fetches from Debian's registry, and from archives of Debian's tools.
//!
//! Requires the packages `docker-registry` and `skopeo`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oci_support;

use std::path::{Path, PathBuf};

use oci_support::{Cache, Image, config, options, source, tar, write_files};
use supermachine_baker::oci::{Compression, Credentials, Error, OciImage, fetch};
use supermachine_formats::Digest;
use supermachine_test_support::registry::{DockerRegistry, USER_SECRET, skopeo};

fn layout(image: &Image, tag: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &image.layout(Some(tag)));
    let text = format!("oci:{}:{tag}", dir.path().display());
    (dir, text)
}

/// The layers' uncompressed tars.
fn tars(image: &OciImage) -> Vec<Vec<u8>> {
    let unpack = |path: &Path, compression| {
        let bytes = std::fs::read(path).unwrap();
        match compression {
            Compression::None => bytes,
            Compression::Zstd => zstd::decode_all(&bytes[..]).unwrap(),
            _ => {
                let mut tar = Vec::new();
                let mut decoder = flate2::read::MultiGzDecoder::new(&bytes[..]);
                std::io::Read::read_to_end(&mut decoder, &mut tar).unwrap();
                tar
            }
        }
    };
    let check = |layer: &supermachine_baker::oci::Layer| {
        let tar = unpack(&layer.path, layer.compression);
        assert_eq!(Digest::of(&tar), layer.diff_id);
        tar
    };
    image.layers.iter().map(check).collect()
}

fn expected_tars() -> Vec<Vec<u8>> {
    (1..=3).map(|seed| tar(&format!("file{seed}"), seed)).collect()
}

#[test]
fn registry_serves_what_skopeo_pushed() {
    let image = Image::new("amd64");
    let (_dir, layout) = layout(&image, "v1");
    let registry = DockerRegistry::start(None);
    let name = format!("{}/group/test:v1", registry.address);
    skopeo(&["--preserve-digests", &layout, &format!("docker://{name}")]);
    let cache = Cache::new();
    let pulled = fetch(&source(&name), &cache.blobs, &options()).unwrap();
    assert_eq!(pulled.manifest_digest, image.digest());
    assert_eq!(tars(&pulled), expected_tars());
    let kinds: Vec<_> = pulled.layers.iter().map(|layer| layer.compression).collect();
    assert!(kinds.contains(&Compression::Zstd), "{kinds:?}");
    let by_digest = format!("{}/group/test@{}", registry.address, image.digest());
    fetch(&source(&by_digest), &Cache::new().blobs, &options()).unwrap();
    let missing = format!("{}/group/test:v2", registry.address);
    let error = fetch(&source(&missing), &cache.blobs, &options()).unwrap_err();
    assert!(matches!(error, Error::NoSuchImage { .. }), "{error:?}");
    let missing = format!("{}/nothing", registry.address);
    let error = fetch(&source(&missing), &cache.blobs, &options()).unwrap_err();
    assert!(matches!(error, Error::NoSuchImage { .. }), "{error:?}");
    cache.blobs();
}

#[test]
fn registry_serves_dockers_schema_too() {
    let (_dir, layout) = layout(&gzip_image(), "v1");
    let registry = DockerRegistry::start(None);
    let name = format!("{}/test:v1", registry.address);
    skopeo(&["--format", "v2s2", &layout, &format!("docker://{name}")]);
    let cache = Cache::new();
    let pulled = fetch(&source(&name), &cache.blobs, &options()).unwrap();
    assert_eq!(tars(&pulled), expected_tars());
}

#[test]
fn registry_with_passwords_wants_the_right_one() {
    let registry = DockerRegistry::start(Some(USER_SECRET));
    let image = Image::new("amd64");
    let (_dir, layout) = layout(&image, "v1");
    let name = format!("{}/test:v1", registry.address);
    skopeo(&[
        "--preserve-digests",
        "--dest-creds",
        "user:secret",
        &layout,
        &format!("docker://{name}"),
    ]);
    let pull = |password: Option<&str>| {
        let mut options = options();
        options.credentials = password.map(|password| Credentials::Password {
            user: "user".to_owned(),
            password: password.to_owned(),
        });
        fetch(&source(&name), &Cache::new().blobs, &options)
    };
    assert_eq!(pull(Some("secret")).unwrap().manifest_digest, image.digest());
    for (password, sent) in [(Some("wrong"), true), (None, false)] {
        match pull(password) {
            Err(Error::Unauthorized { credentials_sent, .. }) => assert_eq!(credentials_sent, sent),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn archives_that_skopeo_makes_are_read_back() {
    let (dir, layout) = layout(&gzip_image(), "v1");
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    for (made, read) in [
        (format!("oci:{}:v1", at("copy").display()), format!("{}", at("copy").display())),
        (format!("oci-archive:{}:v1", at("o.tar").display()), at("o.tar").display().to_string()),
        (
            format!("docker-archive:{}:test:v1", at("d.tar").display()),
            at("d.tar").display().to_string(),
        ),
    ] {
        skopeo(&[&layout, &made]);
        for text in [&made, &read] {
            let cache = Cache::new();
            let opened = fetch(&source(text), &cache.blobs, &options())
                .unwrap_or_else(|error| panic!("{text}: {error:?}"));
            assert_eq!(tars(&opened), expected_tars(), "{text}");
            assert_eq!(opened.config.cmd, ["/bin/true"]);
            cache.blobs();
        }
    }
}

/// The content of `Image::new`, as far as Docker's schema can express it.
fn gzip_image() -> Image {
    use std::io::Write;
    let tars = expected_tars();
    let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let gzip = |tar: &Vec<u8>| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(tar).unwrap();
        (format!("{}+gzip", oci_support::LAYER), encoder.finish().unwrap())
    };
    Image::with(tars.iter().map(gzip).collect(), &config("amd64", &diff_ids))
}
