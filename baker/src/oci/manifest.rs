//! Manifests and indexes of OCI and of Docker's schema 2.
//!
//! Parses them and knows the supported media types. Their counts and sizes are untrusted claims; the
//! fetched content is checked against them.

use std::collections::BTreeMap;

use serde::Deserialize;
use supermachine_formats::Digest;

use super::error::{Document, Error};
use super::platform::Platform;

/// The most layers an image may have.
pub(crate) const MAX_LAYERS: usize = 512;

/// The most bytes a manifest, an index or a config may have.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

const LAYERS: [&str; 10] = [
    OCI_LAYER,
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    // Registries need not serve these, but one that does serves them like any other.
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// A blob's digest, claimed size and media type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) media_type: String,
}

/// A parsed manifest or index.
#[derive(Debug)]
pub(crate) enum Manifest {
    Index(Vec<IndexEntry>),
    Image { config: Descriptor, layers: Vec<Descriptor> },
}

/// An index's entry: a manifest or another index.
#[derive(Debug, Clone)]
pub(crate) struct IndexEntry {
    pub(crate) platform: Option<Platform>,
    pub(crate) annotations: BTreeMap<String, String>,
    raw: RawDescriptor,
}

impl IndexEntry {
    pub(crate) fn descriptor(&self) -> Result<Descriptor, Error> {
        self.raw.descriptor()
    }
}

impl Manifest {
    /// Parses a manifest or an index whose content has the digest `digest`.
    pub(crate) fn parse(json: &[u8], digest: Digest) -> Result<Self, Error> {
        let raw: RawManifest = serde_json::from_slice(json).map_err(|source| {
            Error::InvalidDocument { document: Document::Manifest, digest, source }
        })?;
        let unsupported = |media_type: String| Error::UnsupportedMediaType { digest, media_type };
        let stated = raw.media_type.unwrap_or_default();
        if !["", OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].contains(&&*stated) {
            return Err(unsupported(stated));
        }
        // Images may have an artifact type, too.
        let is_image = raw.config.as_ref().is_some_and(RawDescriptor::is_image_config);
        let artifact_type = raw.artifact_type.filter(|stated| !stated.is_empty() && !is_image);
        if let Some(artifact_type) = artifact_type {
            return Err(Error::Artifact { digest, artifact_type });
        }
        match (raw.schema_version, raw.manifests, raw.config) {
            (Some(1), ..) => {
                Err(unsupported("application/vnd.docker.distribution.manifest.v1+json".to_owned()))
            }
            (_, Some(entries), None) => {
                Ok(Self::Index(entries.into_iter().filter_map(RawDescriptor::entry).collect()))
            }
            (_, None, Some(config)) => Self::image(&config, &raw.layers.unwrap_or_default()),
            _ => Err(unsupported(stated)),
        }
    }

    fn image(config: &RawDescriptor, layers: &[RawDescriptor]) -> Result<Self, Error> {
        let is_image = config.is_image_config();
        let config = config.descriptor()?;
        if !is_image {
            return Err(Error::UnsupportedMediaType {
                digest: config.digest,
                media_type: config.media_type,
            });
        }
        if layers.len() > MAX_LAYERS {
            return Err(Error::TooManyLayers { count: layers.len(), limit: MAX_LAYERS });
        }
        let layers: Vec<_> =
            layers.iter().map(RawDescriptor::descriptor).collect::<Result<_, _>>()?;
        match layers.iter().find(|layer| !LAYERS.contains(&&*layer.media_type)) {
            None => Ok(Self::Image { config, layers }),
            Some(layer) => Err(Error::UnsupportedMediaType {
                digest: layer.digest,
                media_type: layer.media_type.clone(),
            }),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    schema_version: Option<u32>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: Option<String>,
    digest: String,
    size: u64,
    platform: Option<RawPlatform>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
struct RawPlatform {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

impl RawDescriptor {
    fn is_image_config(&self) -> bool {
        let stated = self.media_type.as_deref().unwrap_or_default();
        [OCI_CONFIG, DOCKER_CONFIG].contains(&stated)
    }

    fn descriptor(&self) -> Result<Descriptor, Error> {
        let digest = self
            .digest
            .parse()
            .map_err(|_| Error::UnsupportedDigest { digest: self.digest.clone() })?;
        let media_type = self.media_type.clone().unwrap_or_default();
        Ok(Descriptor { digest, size: self.size, media_type })
    }

    /// The entry, unless it is an attestation or another artifact.
    fn entry(mut self) -> Option<IndexEntry> {
        let annotations = self.annotations.take().unwrap_or_default();
        let platform = self.platform.take().and_then(|platform| {
            Some(Platform::new(
                &platform.os.filter(|os| !os.is_empty())?,
                &platform.architecture.filter(|architecture| !architecture.is_empty())?,
                platform.variant.as_deref(),
            ))
        });
        let is_attestation = annotations.contains_key("vnd.docker.reference.type")
            || platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown");
        let is_manifest = match self.media_type.as_deref() {
            None | Some("" | OCI_INDEX | OCI_MANIFEST | DOCKER_INDEX | DOCKER_MANIFEST) => true,
            Some(_) => false,
        };
        (is_manifest && !is_attestation).then_some(IndexEntry { platform, annotations, raw: self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Manifest, Error> {
        Manifest::parse(json.as_bytes(), Digest::of(json.as_bytes()))
    }

    fn descriptor(media_type: &str) -> String {
        let digest = Digest::of(media_type.as_bytes());
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":3}}"#)
    }

    fn image(config: &str, layers: &[&str]) -> String {
        let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
        let (config, layers) = (descriptor(config), layers.join(","));
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#)
    }

    #[test]
    fn manifest_with_each_known_layer_kind_is_read() {
        match parse(&image(OCI_CONFIG, &LAYERS)).unwrap() {
            Manifest::Image { layers, .. } => assert_eq!(layers.len(), LAYERS.len()),
            Manifest::Index(_) => panic!("an index"),
        }
    }

    #[test]
    fn manifest_with_unknown_kinds_is_refused() {
        let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
        let helm = "application/vnd.cncf.helm.config.v1+json";
        for (json, kind) in [
            (image(OCI_CONFIG, &[OCI_LAYER, encrypted]), encrypted),
            (image(helm, &[OCI_LAYER]), helm),
            (r#"{"mediaType":"text/plain","schemaVersion":2}"#.to_owned(), "text/plain"),
            (
                r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
                "application/vnd.docker.distribution.manifest.v1+json",
            ),
            ("{}".to_owned(), ""),
        ] {
            match parse(&json) {
                Err(Error::UnsupportedMediaType { media_type, .. }) => assert_eq!(media_type, kind),
                other => panic!("{json}: {other:?}"),
            }
        }
    }

    #[test]
    fn manifest_with_an_artifact_type_is_an_image_if_its_config_is() {
        let typed = |config: &str| {
            image(config, &[OCI_LAYER]).replacen('{', r#"{"artifactType":"application/x","#, 1)
        };
        assert!(matches!(parse(&typed(OCI_CONFIG)), Ok(Manifest::Image { .. })));
        let empty = "application/vnd.oci.empty.v1+json";
        match parse(&typed(empty)) {
            Err(Error::Artifact { artifact_type, .. }) => {
                assert_eq!(artifact_type, "application/x")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn manifest_with_too_many_layers_is_refused() {
        let layers = vec![OCI_LAYER; MAX_LAYERS + 1];
        assert!(matches!(
            parse(&image(OCI_CONFIG, &layers)),
            Err(Error::TooManyLayers { count: 513, limit: 512 })
        ));
    }

    #[test]
    fn manifest_that_is_malformed_is_refused() {
        let negative = image(OCI_CONFIG, &[OCI_LAYER]).replace("\"size\":3", "\"size\":-3");
        for json in ["", "null", "{\"layers\":{}}", &negative] {
            assert!(matches!(parse(json), Err(Error::InvalidDocument { .. })), "{json}");
        }
        let md5 = r#"{"config":{"digest":"md5:00","size":0}}"#;
        assert!(matches!(parse(md5), Err(Error::UnsupportedDigest { .. })));
    }

    #[test]
    fn index_leaves_out_other_artifacts() {
        let digest = Digest::of(b"");
        let entry = |rest: &str| format!(r#"{{"digest":"{digest}","size":1{rest}}}"#);
        let json = format!(
            r#"{{"manifests":[{},{},{},{}]}}"#,
            entry(r#","platform":{"os":"unknown","architecture":"unknown"}"#),
            entry(r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#),
            entry(r#","mediaType":"application/vnd.example.signature""#),
            entry(r#","platform":{"os":"linux","architecture":"amd64","os.version":null}"#),
        );
        match parse(&json).unwrap() {
            Manifest::Index(entries) => {
                assert_eq!(entries.len(), 1);
                assert_eq!(entries[0].platform.as_ref().unwrap().to_string(), "linux/amd64");
            }
            Manifest::Image { .. } => panic!("an image"),
        }
    }
}
