//! Fetching OCI images: from the name of an image to verified layers in a local cache.
//!
//! Owns everything between what a user writes and [`OciImage`]: references, platforms,
//! credentials, registries, layout folders, archives, and the cache of blobs. It does not
//! look into layers: that is unpacking. Nothing is trusted before its digest and size have been
//! checked, and nothing half-made appears in the cache.
//!
//! ```no_run
//! use supermachine_baker::oci::{BlobStore, FetchOptions, fetch};
//!
//! let blobs = BlobStore::open("/var/cache/images")?;
//! let image = fetch(&"nginx".parse()?, &blobs, &FetchOptions::default())?;
//! for layer in &image.layers {
//!     println!("{} {} bytes", layer.path.display(), layer.size);
//! }
//! # Ok::<(), supermachine_baker::oci::Error>(())
//! ```

mod archive;
mod auth;
mod blobs;
mod challenge;
mod config;
mod docker_archive;
mod download;
mod error;
pub(crate) mod manifest;
mod offline;
mod platform;
mod reference;
mod registry;
pub(crate) mod remote;
pub(crate) mod session;
mod tags;
mod tarball;
pub(crate) mod upload;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use supermachine_formats::Digest;

pub use crate::rootfs::Directories;

pub use auth::{Credentials, docker_config_dir, find_credentials};
pub use blobs::{BlobStore, BlobWriter};
pub use config::ImageConfig;
pub use error::{
    ArchiveProblem, Cause, Document, Error, HelperFault, MissingBlob, ReferenceProblem, TokenFault,
};
use manifest::{Descriptor, MAX_DOCUMENT, Manifest};
pub use platform::Platform;
pub use reference::{ImageSource, Reference};

/// How often an index may refer to another.
const MAX_INDEX_DEPTH: usize = 4;

/// An image whose layers are all in the cache.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OciImage {
    /// What the image was asked for as, with the short forms written out.
    pub reference: String,
    /// The digest that the reference stands for: that of an index, or of the only manifest.
    pub root_digest: Digest,
    /// The digest of the platform's own manifest.
    pub manifest_digest: Digest,
    /// What the image says about running it.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

/// One layer: a tar, perhaps compressed, whose bytes match `digest`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layer {
    /// The digest of the file as it is.
    pub digest: Digest,
    /// The digest that the uncompressed tar must have; not checked yet unless the file is
    /// uncompressed.
    pub diff_id: Digest,
    /// Bytes of the file as it is.
    pub size: u64,
    /// How the file is compressed, by its first bytes.
    pub compression: Compression,
    /// The file.
    pub path: PathBuf,
    /// What its directories are to those of lower layers.
    pub directories: Directories,
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// As gzip.
    Gzip,
    /// As Zstandard.
    Zstd,
}

/// How images are fetched.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct FetchOptions {
    /// The platform that is wanted, of those that an image offers.
    pub platform: Platform,
    /// Credentials that go before those in Docker's configuration.
    pub credentials: Option<Credentials>,
    /// The folder of Docker's configuration, if it is not [`docker_config_dir`].
    pub docker_config: Option<PathBuf>,
    /// Whether a registry on another machine may be spoken to without TLS.
    pub insecure: bool,
    /// Whether to do with what is in the cache, without any network.
    pub offline: bool,
    /// Who is told how it goes.
    pub progress: Option<Arc<dyn Progress>>,
    /// How long to wait for a registry.
    pub timeouts: Timeouts,
}

impl fmt::Debug for FetchOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchOptions")
            .field("platform", &self.platform)
            .field("credentials", &self.credentials)
            .field("docker_config", &self.docker_config)
            .field("insecure", &self.insecure)
            .field("offline", &self.offline)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

impl FetchOptions {
    pub(crate) fn report(&self, event: Event<'_>) {
        if let Some(progress) = &self.progress {
            progress.event(event);
        }
    }
}

/// How long to wait for a registry before it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// Until a connection is made.
    pub connect: Duration,
    /// Without a byte arriving.
    pub idle: Duration,
    /// Before a broken transfer is taken up again; doubled each time.
    pub pause: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(30),
            pause: Duration::from_millis(250),
        }
    }
}

/// Told what a fetch does. Called from another thread than the one that fetches, and not to
/// block.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

/// What happens while an image is fetched.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// It is known which manifest is meant.
    Resolved {
        /// The image.
        reference: &'a str,
        /// The digest of the platform's own manifest.
        manifest: Digest,
        /// How many different layers there are.
        layers: usize,
        /// Bytes of all of them.
        size: u64,
    },
    /// A layer is in the cache already.
    Cached {
        /// The layer.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
    /// A layer is being fetched or sent; told again and again.
    Advanced {
        /// The layer.
        digest: Digest,
        /// Bytes that have arrived; less than before if it was started anew.
        received: u64,
        /// Bytes of the whole layer.
        size: u64,
    },
    /// A transfer broke and is taken up again.
    Retrying {
        /// The layer.
        digest: Digest,
        /// The number of the attempt that comes, from 2.
        attempt: u32,
    },
    /// A layer is verified and in the cache.
    Fetched {
        /// The layer.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
    /// The registry has a layer that was to be sent.
    Present {
        /// The layer.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
    /// The registry has received a layer.
    Sent {
        /// The layer.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
}

/// Fetches an image into the cache, or finds it there.
///
/// May be called from any thread, that of an async runtime too, which it blocks.
///
/// # Errors
/// Any [`Error`]. Blobs that were verified before it stay in the cache; nothing else does.
pub fn fetch(
    source: &ImageSource,
    blobs: &BlobStore,
    options: &FetchOptions,
) -> Result<OciImage, Error> {
    let task = Task { source, blobs, options };
    with_origin(task, |origin| task.run(origin))
}

/// Finds out what an image's name stands for now, without fetching it: the digest of its index
/// or only manifest, which is put into the cache. Without network, what it was last known to
/// stand for.
///
/// # Errors
/// Any [`Error`]; the image's place does not have it or cannot be asked.
pub fn resolve(
    source: &ImageSource,
    blobs: &BlobStore,
    options: &FetchOptions,
) -> Result<Digest, Error> {
    let task = Task { source, blobs, options };
    with_origin(task, |origin| origin.root().map(|(digest, _)| digest))
}

/// Does something with the place that an image comes from.
fn with_origin<T: Send>(
    task: Task<'_>,
    run: impl FnOnce(&mut dyn Origin) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let Task { source, blobs, options } = task;
    match source {
        ImageSource::Registry(reference) if options.offline => {
            run(&mut offline::Offline::new(reference, blobs))
        }
        ImageSource::Registry(reference) => {
            remote::on_own_thread(|| run(&mut registry::Registry::new(reference, blobs, options)?))
        }
        ImageSource::Layout { path, tag } => {
            run(&mut archive::Layout::open_dir(path, tag.as_deref(), blobs, options))
        }
        ImageSource::OciArchive { path, tag } => {
            let tar = tarball::Tarball::open(path)?;
            run(&mut archive::Layout::open_tar(tar, tag.as_deref(), blobs, options))
        }
        ImageSource::DockerArchive { path, tag } => {
            let tar = tarball::Tarball::open(path)?;
            run(&mut docker_archive::DockerArchive::new(tar, tag.as_deref(), blobs, options))
        }
        ImageSource::Archive { path } => {
            let tar = tarball::Tarball::open(path)?;
            if tar.contains("oci-layout") {
                run(&mut archive::Layout::open_tar(tar, None, blobs, options))
            } else {
                run(&mut docker_archive::DockerArchive::new(tar, None, blobs, options))
            }
        }
    }
}

/// What kind of artifact a registry has under a reference; none for an image.
///
/// # Errors
/// The registry does not have it or cannot be asked.
pub fn artifact_type(
    reference: &Reference,
    options: &FetchOptions,
) -> Result<Option<String>, Error> {
    if options.offline {
        let reference = reference.to_string();
        return Err(Error::NotCached { reference, missing: MissingBlob::Manifest });
    }
    let json = remote::on_own_thread(|| {
        remote::Remote::new(reference, options, session::Access::Pull)?.manifest()
    })?;
    match Manifest::parse(&json, Digest::of(&json)) {
        Err(Error::Artifact { artifact_type, .. }) => Ok(Some(artifact_type)),
        other => other.map(|_| None),
    }
}

/// Somewhere that images are fetched from.
trait Origin {
    /// What the image's name stands for.
    fn root(&mut self) -> Result<(Digest, Manifest), Error>;

    /// Puts a manifest or config into the cache.
    fn fetch_document(&mut self, wanted: &Descriptor, kind: Document) -> Result<(), Error>;

    /// Puts layers into the cache, unless they are there.
    fn fetch_layers(&mut self, wanted: &[Descriptor]) -> Result<(), Error>;
}

/// What a name stands for on one platform.
struct Resolved {
    root: Digest,
    manifest: Digest,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// One fetch, whatever the image's origin.
#[derive(Clone, Copy)]
struct Task<'a> {
    source: &'a ImageSource,
    blobs: &'a BlobStore,
    options: &'a FetchOptions,
}

impl Task<'_> {
    fn run(self, origin: &mut dyn Origin) -> Result<OciImage, Error> {
        let reference = self.source.to_string();
        let Resolved { root: root_digest, manifest: manifest_digest, config, layers } =
            self.resolve(origin)?;
        let json = self.document(origin, &config, Document::Config)?;
        let config = ImageConfig::parse(&json, config.digest)?;
        self.check(&config, &layers)?;
        let mut seen = BTreeSet::new();
        let unique: Vec<_> =
            layers.iter().filter(|layer| seen.insert(layer.digest)).cloned().collect();
        self.options.report(Event::Resolved {
            reference: &reference,
            manifest: manifest_digest,
            layers: unique.len(),
            size: unique.iter().fold(0, |sum, layer| sum.saturating_add(layer.size)),
        });
        origin.fetch_layers(&unique)?;
        let layers = layers
            .iter()
            .zip(&config.diff_ids)
            .map(|(layer, diff_id)| self.layer(layer, *diff_id))
            .collect::<Result<_, _>>()?;
        Ok(OciImage { reference, root_digest, manifest_digest, config, layers })
    }

    /// Follows indexes down to the manifest of the wanted platform.
    fn resolve(self, origin: &mut dyn Origin) -> Result<Resolved, Error> {
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
                    let picked = platform::pick(&self.options.platform, &offered)?.descriptor()?;
                    let json = self.document(origin, &picked, Document::Manifest)?;
                    digest = picked.digest;
                    manifest = Manifest::parse(&json, digest)?;
                }
            }
        }
        Err(Error::IndexTooDeep { digest })
    }

    /// A manifest or config by its descriptor, from the cache if it is there.
    fn document(
        self,
        origin: &mut dyn Origin,
        wanted: &Descriptor,
        kind: Document,
    ) -> Result<Vec<u8>, Error> {
        if wanted.size > MAX_DOCUMENT {
            return Err(Error::TooLarge { document: kind, limit: MAX_DOCUMENT });
        }
        let cached = match self.blobs.read_small(wanted.digest, kind, MAX_DOCUMENT) {
            // A damaged blob is gone now, and is fetched again.
            Err(Error::DigestMismatch { .. }) => None,
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

    /// Checks that the config fits the manifest and the wanted platform.
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
        let compression = Compression::of_file(&path)?;
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

impl Compression {
    /// By the first bytes: media types are too often wrong about it.
    fn of_file(path: &std::path::Path) -> Result<Self, Error> {
        let mut start = Vec::new();
        File::open(path)
            .and_then(|file| file.take(4).read_to_end(&mut start))
            .map_err(Error::io("read", path))?;
        Ok(match start.as_slice() {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Self::Zstd,
            _ => Self::None,
        })
    }
}
