//! A fetch from any source: index, manifest, config, layers.
//!
//! Blobs from the cache are verified too, and fetched again if they are damaged.

use std::collections::BTreeSet;

use supermachine_formats::Digest;

use super::blocking::on_own_thread;
use super::cache::BlobStore;
use super::config::ImageConfig;
use super::error::{Document, Error, MissingBlob};
use super::image::{ImageDescription, Layer, OciImage, compression_of};
use super::manifest::{Descriptor, MAX_DOCUMENT, Manifest};
use super::options::FetchOptions;
use super::progress::Event;
use super::reference::{ImageSource, Reference};
use super::registry::{Access, RegistryClient};
use super::selection::pick;
use super::sources::{DockerArchive, Layout, Offline, Registry, Source, Tarball};
use crate::rootfs::{Compression, Directories};

/// The deepest nesting of indexes.
const MAX_INDEX_DEPTH: usize = 4;

/// Fetches an image into the cache, or finds it there.
///
/// Blocks the calling thread, which may be one of an async runtime. Verifies layers that are in the
/// cache already; see [`Event::Damaged`].
///
/// # Errors
/// Any [`Error`]. The cache keeps the blobs that were verified before the error, and nothing else.
pub fn fetch(
    source: &ImageSource,
    blobs: &BlobStore,
    options: &FetchOptions,
) -> Result<OciImage, Error> {
    let task = Task { source, blobs, options };
    task.with_source(|origin| task.run(origin))
}

/// Fetches an image's manifest and config, and none of its layers.
pub(crate) fn describe(
    source: &ImageSource,
    blobs: &BlobStore,
    options: &FetchOptions,
) -> Result<ImageDescription, Error> {
    let task = Task { source, blobs, options };
    task.with_source(|origin| task.describe(origin).map(|(image, _)| image))
}

/// Resolves an image's name to the digest of its index or only manifest, which it caches. Offline,
/// returns the digest of the last fetch.
///
/// # Errors
/// Any [`Error`]: the source does not have the image or cannot be reached.
pub fn resolve(
    source: &ImageSource,
    blobs: &BlobStore,
    options: &FetchOptions,
) -> Result<Digest, Error> {
    let task = Task { source, blobs, options };
    task.with_source(|origin| origin.root().map(|(digest, _)| digest))
}

/// The type of a registry's artifact; `None` for an image.
///
/// # Errors
/// The registry does not have it or cannot be reached.
pub fn artifact_type(
    reference: &Reference,
    options: &FetchOptions,
) -> Result<Option<String>, Error> {
    if options.offline {
        let reference = reference.to_string();
        return Err(Error::NotCached { reference, missing: MissingBlob::Manifest });
    }
    let client = || RegistryClient::configured(reference, options, Access::Pull);
    let json = on_own_thread(|| client()?.manifest())?;
    match Manifest::parse(&json, Digest::of(&json)) {
        Err(Error::Artifact { artifact_type, .. }) => Ok(Some(artifact_type)),
        other => other.map(|_| None),
    }
}

/// A name, resolved for one platform.
struct Resolved {
    root: Digest,
    manifest: Digest,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// A fetch.
#[derive(Clone, Copy)]
struct Task<'a> {
    source: &'a ImageSource,
    blobs: &'a BlobStore,
    options: &'a FetchOptions,
}

impl Task<'_> {
    /// Opens the image's source and passes it to `run`.
    fn with_source<T: Send>(
        self,
        run: impl FnOnce(&mut dyn Source) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let Task { source, blobs, options } = self;
        match source {
            ImageSource::Registry(reference) if options.offline => {
                run(&mut Offline::new(reference, blobs))
            }
            ImageSource::Registry(reference) => {
                on_own_thread(|| run(&mut Registry::new(reference, blobs, options)?))
            }
            ImageSource::Layout { path, tag } => {
                run(&mut Layout::open_dir(path, tag.as_deref(), blobs, options))
            }
            ImageSource::OciArchive { path, tag } => {
                let tar = Tarball::open(path, blobs)?;
                run(&mut Layout::open_tar(tar, tag.as_deref(), blobs, options))
            }
            ImageSource::DockerArchive { path, tag } => {
                let tar = Tarball::open(path, blobs)?;
                run(&mut DockerArchive::new(tar, tag.as_deref(), blobs, options))
            }
            ImageSource::Archive { path } => {
                let tar = Tarball::open(path, blobs)?;
                if tar.contains("oci-layout") {
                    run(&mut Layout::open_tar(tar, None, blobs, options))
                } else {
                    run(&mut DockerArchive::new(tar, None, blobs, options))
                }
            }
        }
    }

    /// Reads everything but the layers. Returns the layers' descriptors too.
    fn describe(
        self,
        origin: &mut dyn Source,
    ) -> Result<(ImageDescription, Vec<Descriptor>), Error> {
        let reference = self.source.to_string();
        let Resolved { root: root_digest, manifest: manifest_digest, config, layers } =
            self.resolve(origin)?;
        let json = self.document(origin, &config, Document::Config)?;
        let config = ImageConfig::parse(&json, config.digest)?;
        self.check(&config, &layers)?;
        Ok((ImageDescription { reference, root_digest, manifest_digest, config }, layers))
    }

    fn run(self, origin: &mut dyn Source) -> Result<OciImage, Error> {
        let (image, layers) = self.describe(origin)?;
        let mut seen = BTreeSet::new();
        let unique: Vec<_> =
            layers.iter().filter(|layer| seen.insert(layer.digest)).cloned().collect();
        self.options.report(Event::Resolved {
            reference: &image.reference,
            manifest: image.manifest_digest,
            layers: unique.len(),
            size: unique.iter().fold(0, |sum, layer| sum.saturating_add(layer.size)),
        });
        self.remove_damaged(&unique)?;
        origin.fetch_layers(&unique)?;
        let layers = layers
            .iter()
            .zip(&image.config.diff_ids)
            .map(|(layer, diff_id)| self.layer(layer, *diff_id))
            .collect::<Result<_, _>>()?;
        let ImageDescription { reference, root_digest, manifest_digest, config } = image;
        Ok(OciImage { reference, root_digest, manifest_digest, config, layers })
    }

    /// Removes damaged layers from the cache.
    fn remove_damaged(self, layers: &[Descriptor]) -> Result<(), Error> {
        let all: Vec<_> = layers.iter().map(|layer| (layer.digest, layer.size)).collect();
        for (digest, found) in self.blobs.damaged(&all)? {
            self.blobs.remove(digest)?;
            self.options.report(Event::Damaged { digest, found, was_cached: true });
        }
        Ok(())
    }

    /// Follows indexes to the manifest of the requested platform.
    fn resolve(self, origin: &mut dyn Source) -> Result<Resolved, Error> {
        let (root, mut manifest) = origin.root()?;
        let mut digest = root;
        for _ in 0..=MAX_INDEX_DEPTH {
            match manifest {
                Manifest::Image { config, layers } => {
                    return Ok(Resolved { root, manifest: digest, config, layers });
                }
                Manifest::Index(entries) => {
                    let offered: Vec<_> =
                        entries.into_iter().map(|entry| (entry.platform.clone(), entry)).collect();
                    let picked = pick(&self.options.platform, &offered)?.descriptor()?;
                    let json = self.document(origin, &picked, Document::Manifest)?;
                    digest = picked.digest;
                    manifest = Manifest::parse(&json, digest)?;
                }
            }
        }
        Err(Error::IndexTooDeep { digest })
    }

    /// Reads a manifest or config, from the cache if possible.
    fn document(
        self,
        origin: &mut dyn Source,
        wanted: &Descriptor,
        kind: Document,
    ) -> Result<Vec<u8>, Error> {
        if wanted.size > MAX_DOCUMENT {
            return Err(Error::TooLarge { document: kind, limit: MAX_DOCUMENT });
        }
        let cached = match self.blobs.read_small(wanted.digest, kind, MAX_DOCUMENT) {
            // The damaged blob is removed.
            Err(Error::DigestMismatch { digest, found }) => {
                self.options.report(Event::Damaged { digest, found, was_cached: true });
                None
            }
            other => other?,
        };
        let found = match cached {
            Some(json) => json,
            None => {
                origin.fetch_document(wanted, kind)?;
                self.blobs.read_small(wanted.digest, kind, MAX_DOCUMENT)?.ok_or_else(|| {
                    Error::BlobMissing { digest: wanted.digest, place: self.source.to_string() }
                })?
            }
        };
        let size = u64::try_from(found.len()).unwrap_or(u64::MAX);
        if size != wanted.size {
            let (digest, expected) = (wanted.digest, wanted.size);
            return Err(Error::SizeMismatch { digest, expected, found: size });
        }
        Ok(found)
    }

    /// Checks the config against the manifest and the requested platform.
    fn check(self, config: &ImageConfig, layers: &[Descriptor]) -> Result<(), Error> {
        if layers.len() != config.diff_ids.len() {
            return Err(Error::LayerCount {
                layers: layers.len(),
                diff_ids: config.diff_ids.len(),
            });
        }
        let wanted = &self.options.platform;
        match config.platform() {
            Some(found) if !wanted.same_architecture(&found) => {
                Err(Error::PlatformMissing { wanted: wanted.clone(), offered: vec![found] })
            }
            _ => Ok(()),
        }
    }

    fn layer(self, layer: &Descriptor, diff_id: Digest) -> Result<Layer, Error> {
        let path = self.blobs.path(layer.digest);
        let compression = compression_of(&path)?;
        if compression == Compression::None && layer.digest != diff_id {
            return Err(Error::DigestMismatch { digest: diff_id, found: layer.digest });
        }
        Ok(Layer {
            digest: layer.digest,
            diff_id,
            size: layer.size,
            compression,
            path,
            directories: Directories::Replace,
        })
    }
}
