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

mod blocking;
mod cache;
mod config;
mod credentials;
mod error;
mod fetch;
mod image;
mod manifest;
mod mirror_files;
mod mirrors;
mod options;
mod platform;
mod progress;
mod reference;
mod registry;
mod selection;
mod sources;

pub use crate::rootfs::{Compression, Directories};
pub use cache::{BlobStore, BlobWriter};
pub use config::ImageConfig;
pub use credentials::{Credentials, docker_config_dir, find_credentials};
pub use error::{
    ArchiveProblem, Cause, Document, Error, HelperFault, MissingBlob, ReferenceProblem, TokenFault,
};
pub use fetch::{artifact_type, fetch, resolve};
pub use image::{Layer, OciImage};
pub use mirror_files::MirrorFiles;
pub use options::{FetchOptions, Timeouts};
pub use platform::Platform;
pub use progress::{Event, Progress};
pub use reference::{ImageSource, Reference};

pub(crate) use blocking::on_own_thread;
pub(crate) use fetch::describe;
pub(crate) use image::ImageDescription;
pub(crate) use manifest::{Descriptor, MAX_DOCUMENT};
pub(crate) use registry::{Access, BlobToUpload, RegistryClient};
