//! Fetching from the registry and the archives that Debian's tools make.
//!
//! Needs the packages `docker-registry` and `skopeo`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod oci_support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use oci_support::{Cache, Image, config, options, source, tar, write_files};
use supermachine_baker::oci::{Compression, Credentials, Error, OciImage, fetch};
use supermachine_formats::Digest;

/// What `htpasswd -B` makes of the name `user` and the password `secret`.
const USER_SECRET: &str = "user:$2y$05$Zb77GIM4HZITJmBshlQyqOyWlW5tINWcnzF5qt/l2xSaZ9DUpmzMG";

/// Finds a program, or says which package has it.
fn tool(name: &str, package: &str) -> Command {
    let found = Command::new(name).arg("--version").output();
    assert!(found.is_ok(), "{name} is not installed: apt-get install {package}");
    Command::new(name)
}

fn skopeo(arguments: &[&str]) {
    let output = tool("skopeo", "skopeo")
        .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Debian's registry on a port of the system's choosing.
struct DockerRegistry {
    process: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl DockerRegistry {
    fn start(htpasswd: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let auth = htpasswd.map_or(String::new(), |text| {
            let path = dir.path().join("htpasswd");
            std::fs::write(&path, text).unwrap();
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path.display())
        });
        let config = format!(
            "version: 0.1\nlog:\n  level: info\n  formatter: text\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{auth}",
            dir.path().join("data").display()
        );
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let mut process = tool("docker-registry", "docker-registry")
            .arg("serve")
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .env("OTEL_TRACES_EXPORTER", "none")
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = log
            .find_map(|line| {
                let line = line.unwrap();
                let (_, rest) = line.split_once("listening on ")?;
                Some(rest.split(['"', ' ', ',']).next()?.to_owned())
            })
            .expect("the registry ended without listening");
        // It must not block on a full pipe.
        std::thread::spawn(move || log.for_each(drop));
        Self { process, address, _dir: dir }
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

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

/// The same content as `Image::new`, but with what Docker's schema can express.
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
