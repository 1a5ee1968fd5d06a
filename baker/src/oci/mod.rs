//! Fetching OCI images: from the name of an image to verified layers in a local cache.
//!
//! Owns everything between the user's text and an [`OciImage`]: references, platforms, credentials,
//! registries, layout folders, archives, and the cache of blobs. It does not read the content of
//! layers; `rootfs` does. It trusts no blob before checking its digest and size, and incomplete blobs
//! never appear in the cache.
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

mod address_range;
mod blocking;
mod cache;
mod config;
mod credentials;
mod error;
mod fetch;
mod image;
mod kept_archive;
mod manifest;
mod mirrors;
mod options;
mod platform;
mod progress;
mod proxies;
mod reference;
mod registries_conf;
mod registry;
mod registry_files;
mod selection;
mod short_names;
mod sources;

pub use crate::rootfs::{Compression, Directories};
pub use cache::{BlobStore, BlobWriter};
pub use config::ImageConfig;
pub use credentials::{Credentials, docker_config_dir, find_credentials};
pub use error::{
    ArchiveProblem, Cause, Document, Error, HelperFault, MissingBlob, ProxyProblem,
    ReferenceProblem, TokenFault,
};
pub use fetch::{artifact_type, fetch, resolve};
pub use image::{Layer, OciImage};
pub use options::{FetchOptions, Timeouts};
pub use platform::Platform;
pub use progress::{Event, Progress};
pub use proxies::Proxies;
pub use reference::{ImageSource, Reference};
pub use registry_files::RegistryFiles;
pub use short_names::{candidates, locate};

pub(crate) use blocking::on_own_thread;
pub(crate) use fetch::describe;
pub(crate) use image::ImageDescription;
pub(crate) use kept_archive::KeptArchive;
pub(crate) use manifest::{Descriptor, MAX_DOCUMENT};
pub(crate) use registry::{Access, BlobToUpload, RegistryClient};
