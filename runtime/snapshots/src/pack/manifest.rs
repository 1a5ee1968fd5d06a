//! The JSON documents of an image layout, as far as snapshots use them.

use serde_json::{Map, Value};
use supermachine_formats::Digest;
use supermachine_formats::pack::{ARTIFACT_TYPE, CHUNKS_TYPE, CONFIG_TYPE, INDEX_TYPE, STATE_TYPE};

use crate::error::PackError;

/// The media type of an image manifest, which artifacts share.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The annotation that names a manifest in an image layout.
pub const NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";
pub(super) const ARTIFACT: &str = ARTIFACT_TYPE;

/// The limit on manifests and configurations, in bytes; registries have the same.
pub(super) const MAX_MANIFEST: u64 = 4 << 20;
pub(super) const MANIFEST: &str = "manifest";
pub(super) const INDEX_JSON: &str = "index.json";

/// A reference to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// An entry of an image layout's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The manifest.
    pub descriptor: Descriptor,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its artifact type, if the index has it.
    pub artifact_type: Option<String>,
}

/// The manifest of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration, as JSON, for people and tools.
    pub config: Descriptor,
    /// The state file.
    pub state: Descriptor,
    /// The index.
    pub index: Descriptor,
    /// The blobs of chunks, in the index's order.
    pub chunks: Vec<Descriptor>,
}

impl Manifest {
    /// Encodes the manifest, deterministically.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let describe = |media_type: &str, blob: &Descriptor| {
            let Descriptor { digest, size } = blob;
            format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
        };
        let mut layers = vec![describe(STATE_TYPE, &self.state), describe(INDEX_TYPE, &self.index)];
        layers.extend(self.chunks.iter().map(|blob| describe(CHUNKS_TYPE, blob)));
        let (config, layers) = (describe(CONFIG_TYPE, &self.config), layers.join(","));
        let head = format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","#);
        let body = format!(r#""artifactType":"{ARTIFACT_TYPE}","config":{config},"#);
        format!(r#"{head}{body}"layers":[{layers}]}}"#).into_bytes()
    }

    /// Decodes a manifest.
    ///
    /// # Errors
    /// It is not the manifest of a snapshot.
    pub fn decode(bytes: &[u8]) -> Result<Self, PackError> {
        let document = object(bytes, MANIFEST)?;
        let wrong = |what| PackError::Document { section: MANIFEST, what };
        let found = document.get("artifactType").and_then(Value::as_str).unwrap_or("an image");
        if found != ARTIFACT_TYPE {
            return Err(PackError::ArtifactType { found: found.to_owned() });
        }
        let config = document.get("config").ok_or_else(|| wrong("no config"))?;
        let config = descriptor(config, MANIFEST)?;
        let layers = document.get("layers").and_then(Value::as_array);
        let (mut state, mut index, mut chunks) = (None, None, Vec::new());
        for layer in layers.ok_or_else(|| wrong("no layers"))? {
            let blob = descriptor(layer, MANIFEST)?;
            let place = match layer.get("mediaType").and_then(Value::as_str) {
                Some(STATE_TYPE) => &mut state,
                Some(INDEX_TYPE) => &mut index,
                Some(CHUNKS_TYPE) => {
                    chunks.push(blob);
                    continue;
                }
                _ => return Err(wrong("a layer of another media type")),
            };
            if place.replace(blob).is_some() {
                return Err(wrong("a second state or index"));
            }
        }
        let state = state.ok_or_else(|| wrong("no state"))?;
        let index = index.ok_or_else(|| wrong("no index"))?;
        Ok(Self { config, state, index, chunks })
    }

    /// All blobs that the manifest lists.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        [&self.config, &self.state, &self.index].into_iter().chain(&self.chunks)
    }
}

/// The entries of an `index.json`.
pub(super) fn read_index(bytes: &[u8]) -> Result<Vec<Named>, PackError> {
    let document = object(bytes, INDEX_JSON)?;
    let Some(manifests) = document.get("manifests").and_then(Value::as_array) else {
        return Err(PackError::Document { section: INDEX_JSON, what: "no list of manifests" });
    };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let entry = |entry: &Value| {
        Ok(Named {
            descriptor: descriptor(entry, INDEX_JSON)?,
            name: text(entry.get("annotations").and_then(|all| all.get(NAME_ANNOTATION))),
            artifact_type: text(entry.get("artifactType")),
        })
    };
    manifests.iter().map(entry).collect()
}

fn object(bytes: &[u8], section: &'static str) -> Result<Map<String, Value>, PackError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) => Err(PackError::Document { section, what: "no JSON object" }),
        Err(source) => Err(PackError::Json { section, source }),
    }
}

fn descriptor(value: &Value, section: &'static str) -> Result<Descriptor, PackError> {
    let digest = value.get("digest").and_then(Value::as_str).and_then(|text| text.parse().ok());
    let size = value.get("size").and_then(Value::as_u64);
    match (digest, size) {
        (Some(digest), Some(size)) => Ok(Descriptor { digest, size }),
        _ => Err(PackError::Document { section, what: "a descriptor without digest and size" }),
    }
}
