//! Images in archives of `docker save`.
//!
//! Such an archive has no OCI manifest. This module builds one from config and layers, the same for
//! the same archive, and caches it.

use std::io::Read;

use serde::Deserialize;
use serde_json::json;
use supermachine_formats::Digest;

use super::archive_read::{copy, parse_index, read_small};
use super::source::Source;
use super::tarball::Tarball;
use crate::oci::cache::BlobStore;
use crate::oci::config::ImageConfig;
use crate::oci::error::{ArchiveProblem, Document, Error};
use crate::oci::manifest::{Descriptor, MAX_LAYERS, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use crate::oci::options::FetchOptions;
use crate::oci::progress::Event;
use crate::oci::reference::Reference;

const MAX_OFFERED: usize = 32;

pub(crate) struct DockerArchive<'a> {
    tar: Tarball,
    tag: Option<&'a str>,
    blobs: &'a BlobStore,
    options: &'a FetchOptions,
}

/// An image of the archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ArchiveImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl ArchiveImage {
    fn tags(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }

    fn is_named(&self, wanted: &str) -> bool {
        let full = |text: &str| text.parse::<Reference>().ok();
        self.tags()
            .iter()
            .any(|tag| tag == wanted || full(tag).is_some() && full(tag) == full(wanted))
    }
}

impl<'a> DockerArchive<'a> {
    pub(crate) fn new(
        tar: Tarball,
        tag: Option<&'a str>,
        blobs: &'a BlobStore,
        options: &'a FetchOptions,
    ) -> Self {
        Self { tar, tag, blobs, options }
    }

    fn problem(&self, source: ArchiveProblem) -> Error {
        Error::Archive { path: self.tar.path().to_owned(), source }
    }

    fn file(&self, name: &str) -> Result<(std::io::Take<&std::fs::File>, u64), Error> {
        self.tar.file(name).map_err(|source| self.problem(source))
    }

    fn small_file(&self, name: &str) -> Result<Vec<u8>, Error> {
        read_small(self.file(name)?.0).map_err(|fault| fault.into_error(self.tar.path()))
    }

    fn choose(&self, items: Vec<ArchiveImage>) -> Result<ArchiveImage, Error> {
        let offered: Vec<String> =
            items.iter().flat_map(ArchiveImage::tags).take(MAX_OFFERED).cloned().collect();
        let problem = match self.tag {
            Some(tag) => match items.into_iter().find(|item| item.is_named(tag)) {
                Some(item) => return Ok(item),
                None => ArchiveProblem::NoSuchTag { wanted: tag.to_owned(), offered },
            },
            None => {
                let mut items = items.into_iter();
                match (items.next(), items.next()) {
                    (Some(item), None) => return Ok(item),
                    (None, _) => ArchiveProblem::Empty,
                    (Some(_), Some(_)) => ArchiveProblem::Ambiguous { offered },
                }
            }
        };
        Err(self.problem(problem))
    }

    /// Copies a layer into the cache. Verifies an uncompressed one against the config.
    fn layer(&self, name: &str, diff_id: Digest) -> Result<Descriptor, Error> {
        let mut magic = Vec::new();
        let (content, size) = self.file(name)?;
        content
            .take(4)
            .read_to_end(&mut magic)
            .map_err(|source| self.problem(ArchiveProblem::Unreadable { source }))?;
        let suffix = match magic.as_slice() {
            [0x1f, 0x8b, ..] => "+gzip",
            [0x28, 0xb5, 0x2f, 0xfd] => "+zstd",
            _ => "",
        };
        let media_type = format!("{OCI_LAYER}{suffix}");
        let known = if suffix.is_empty() { Some(diff_id) } else { digest_in(name) };
        if let Some(digest) = known.filter(|digest| self.blobs.contains(*digest, size))
            && !self.remove_damaged(digest, size)?
        {
            self.options.report(Event::Cached { digest, size });
            return Ok(Descriptor { digest, size, media_type });
        }
        let mut writer = self.blobs.writer()?;
        copy(self.file(name)?.0, &mut writer, |received| {
            self.options.report(Event::Advanced { digest: diff_id, received, size });
        })
        .map_err(|fault| fault.into_error(self.tar.path()))?;
        let digest = match known {
            Some(digest) => writer.commit(digest, size).map(|()| digest)?,
            None => writer.commit_unnamed()?.0,
        };
        self.options.report(Event::Fetched { digest, size });
        Ok(Descriptor { digest, size, media_type })
    }
}

impl DockerArchive<'_> {
    /// Removes a layer from the cache if it is damaged. Returns whether it was.
    fn remove_damaged(&self, digest: Digest, size: u64) -> Result<bool, Error> {
        let Some((_, found)) = self.blobs.damaged(&[(digest, size)])?.pop() else {
            return Ok(false);
        };
        self.blobs.remove(digest)?;
        self.options.report(Event::Damaged { digest, found, was_cached: true });
        Ok(true)
    }
}

impl Source for DockerArchive<'_> {
    fn root(&mut self) -> Result<(Digest, Manifest), Error> {
        if !self.tar.contains("manifest.json") {
            return Err(self.problem(ArchiveProblem::Unrecognized));
        }
        let index = self.small_file("manifest.json")?;
        let item = self.choose(parse_index(&index)?)?;
        let names = item.layers.unwrap_or_default();
        if names.len() > MAX_LAYERS {
            return Err(Error::TooManyLayers { count: names.len(), limit: MAX_LAYERS });
        }
        let json = self.small_file(&item.config)?;
        let digest = Digest::of(&json);
        if let Some(stated) = digest_in(&item.config).filter(|stated| *stated != digest) {
            return Err(Error::DigestMismatch { digest: stated, found: digest });
        }
        let config = ImageConfig::parse(&json, digest)?;
        if names.len() != config.diff_ids.len() {
            let (layers, diff_ids) = (names.len(), config.diff_ids.len());
            return Err(Error::LayerCount { layers, diff_ids });
        }
        self.blobs.put(&json)?;
        let config_size = json.len();
        let layers = names
            .iter()
            .zip(&config.diff_ids)
            .map(|(name, diff_id)| self.layer(name, *diff_id))
            .collect::<Result<Vec<_>, _>>()?;
        let describe = |media_type: &str, digest: Digest, size: u64| json!({"mediaType": media_type, "digest": digest.to_string(), "size": size});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": describe(OCI_CONFIG, digest, u64::try_from(config_size).unwrap_or(u64::MAX)),
            "layers": layers.iter().map(|l| describe(&l.media_type, l.digest, l.size)).collect::<Vec<_>>(),
        })
        .to_string();
        let digest = self.blobs.put(manifest.as_bytes())?;
        Ok((digest, Manifest::parse(manifest.as_bytes(), digest)?))
    }

    fn fetch_document(&mut self, wanted: &Descriptor, _kind: Document) -> Result<(), Error> {
        let place = self.tar.path().display().to_string();
        Err(Error::BlobMissing { digest: wanted.digest, place })
    }

    fn fetch_layers(&mut self, _wanted: &[Descriptor]) -> Result<(), Error> {
        // The manifest needed their digests, so all are cached already.
        Ok(())
    }
}

/// The digest in a name such as `<hex>.json` or `blobs/sha256/<hex>`.
fn digest_in(name: &str) -> Option<Digest> {
    let base = name.rsplit_once('/').map_or(name, |(_, base)| base);
    Digest::from_hex(base.split('.').next().unwrap_or(base)).ok()
}
