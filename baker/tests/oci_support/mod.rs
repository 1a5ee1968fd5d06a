//! Small images and a misbehaving registry, for the tests of fetches.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod proxy;
pub(crate) mod server;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use supermachine_baker::oci::{
    BlobStore, Event, FetchOptions, ImageSource, Progress, Proxies, RegistryFiles,
};
use supermachine_formats::Digest;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image in memory.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) layers: Vec<Digest>,
}

impl Image {
    /// Three layers, plain, gzip and zstd, with random content so that they stay large.
    pub(crate) fn new(architecture: &str) -> Self {
        let tars: Vec<_> = (1..=3).map(|seed| tar(&format!("file{seed}"), seed)).collect();
        let gzip = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(&tars[1]).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = zstd::encode_all(&tars[2][..], 1).unwrap();
        let kinds = ["", "+gzip", "+zstd"].map(|kind| format!("{LAYER}{kind}"));
        let layers = kinds.into_iter().zip([tars[0].clone(), gzip, zstd]).collect();
        let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar).to_string()).collect();
        Self::with(layers, &config(architecture, &diff_ids))
    }

    pub(crate) fn with(layers: Vec<(String, Vec<u8>)>, config: &Value) -> Self {
        let config = config.to_string().into_bytes();
        let described: Vec<_> = layers.iter().map(|(kind, blob)| describe(kind, blob)).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": describe(CONFIG, &config), "layers": described})
        .to_string()
        .into_bytes();
        let digests = layers.iter().map(|(_, blob)| Digest::of(blob)).collect();
        let blobs = layers.into_iter().map(|(_, blob)| blob).chain([config]);
        Self {
            blobs: blobs.map(|blob| (Digest::of(&blob), blob)).collect(),
            manifest,
            layers: digests,
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub(crate) fn largest_layer(&self) -> Digest {
        *self.layers.iter().max_by_key(|layer| self.blobs[*layer].len()).unwrap()
    }

    /// The files of an OCI layout with this image named `tag`.
    pub(crate) fn layout(&self, tag: Option<&str>) -> BTreeMap<String, Vec<u8>> {
        let mut entry = describe(MANIFEST, &self.manifest);
        if let Some(tag) = tag {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        }
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
        let blob = |content: &Vec<u8>| {
            (format!("blobs/sha256/{}", Digest::of(content).hex()), content.clone())
        };
        let mut files: BTreeMap<_, _> =
            self.blobs.values().chain([&self.manifest]).map(blob).collect();
        files.insert("index.json".to_owned(), index.into_bytes());
        files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        files
    }
}

pub(crate) fn config(architecture: &str, diff_ids: &[String]) -> Value {
    json!({"os": "linux", "architecture": architecture,
        "config": {"Cmd": ["/bin/true"], "Env": ["A=1"], "ExposedPorts": {"80/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
}

pub(crate) fn describe(kind: &str, content: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": Digest::of(content).to_string(), "size": content.len()})
}

/// A tar with one file of 200 KiB that does not compress.
pub(crate) fn tar(name: &str, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let content: Vec<u8> = (0..200 << 10)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect();
    tar_of(&[(name.to_owned(), content)])
}

pub(crate) fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &content[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn write_files(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (name, content) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

pub(crate) struct Cache {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) blobs: BlobStore,
}

impl Cache {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(dir.path().join("cache")).unwrap();
        Self { dir, blobs }
    }

    /// The names of the blobs. Panics if a temporary file is left.
    pub(crate) fn blobs(&self) -> Vec<String> {
        let list = |name: &str| -> Vec<String> {
            let entries = std::fs::read_dir(self.blobs.dir().join(name)).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        assert_eq!(list("tmp"), Vec::<String>::new(), "temporary files are left");
        list("blobs/sha256")
    }
}

/// Options without credentials and mirrors, for amd64, with short pauses.
pub(crate) fn options() -> FetchOptions {
    let mut options = FetchOptions::default();
    options.platform = "linux/amd64".parse().unwrap();
    options.docker_config = Some("/nonexistent".into());
    options.registry_files = RegistryFiles::none();
    options.proxies = Proxies::none();
    options.timeouts.pause = Duration::from_millis(1);
    options
}

/// Records events in their debug form.
pub(crate) fn record(options: &mut FetchOptions) -> Arc<Mutex<Vec<String>>> {
    struct Recorder(Arc<Mutex<Vec<String>>>);
    impl Progress for Recorder {
        fn event(&self, event: Event<'_>) {
            self.0.lock().unwrap().push(format!("{event:?}"));
        }
    }
    let events = Arc::<Mutex<Vec<String>>>::default();
    options.progress = Some(Arc::new(Recorder(events.clone())));
    events
}

pub(crate) fn source(text: &str) -> ImageSource {
    text.parse().unwrap()
}
